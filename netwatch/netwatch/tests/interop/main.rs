//! The real daemon with real routers of five makes: each test has two network namespaces, the
//! host's with `netwatch run` and the router's. Needs root.

#[path = "../common/mod.rs"]
mod common;

mod cases;
mod lab;
mod speakers;

use speakers::Make;

/// A module for each make, with a test for each case.
macro_rules! interop {
    ($($make:ident $variant:ident: $($case:ident)*;)*) => {
        $(mod $make {
            $(#[test]
            fn $case() {
                crate::run(crate::Make::$variant, crate::cases::$case);
            })*
        })*
    };
}

// GoBGP 3.10 and OpenBGPD 7.7 have no extended messages; GoBGP and ExaBGP 4.2 have no roles.
interop! {
    bird Bird: waited_for connected_to both_connect signed add_path hold_time restart refresh flap
        shutdown extended_messages dynamic max_prefixes ttl_security roles link_local;
    frr Frr: waited_for connected_to both_connect signed add_path hold_time restart refresh flap
        shutdown extended_messages dynamic max_prefixes ttl_security roles;
    gobgp GoBgp: waited_for connected_to both_connect signed add_path hold_time restart refresh flap
        shutdown dynamic max_prefixes ttl_security;
    openbgpd OpenBgpd: waited_for connected_to both_connect signed add_path hold_time restart flap
        refresh shutdown dynamic max_prefixes ttl_security roles;
    exabgp ExaBgp: waited_for connected_to both_connect signed add_path hold_time restart refresh flap
        shutdown extended_messages dynamic max_prefixes ttl_security;
}

/// Runs a case with a make, if that is there. In CI it must be.
fn run(make: Make, case: fn(Make)) {
    if common::unprivileged() {
        return;
    }
    let program = make.program();
    if !std::path::Path::new(program).exists() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{program} is not installed"
        );
        println!("skipped: {program} is not installed (cargo xtask setup installs it)");
        return;
    }
    case(make);
}
