//! The eBPF programs of netwatch.
//!
//! `tcp` watches connections from the hooks of `tcp_hooks`, `watch` processes, `sched` their
//! threads, `message` and `udp` single calls, `block` disks; `table` keeps what is known of each
//! connection where user space can read it
//! without a system call; `rings` tells user space what cannot wait.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

mod access;
mod arguments;
mod block;
mod fields;
mod filter;
mod heartbeat;
mod histogram;
mod message;
mod rings;
mod sched;
mod sock;
mod table;
mod tcp;
mod tcp_hooks;
mod udp;
mod watch;

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_: &core::panic::PanicInfo) -> ! {
    // No program can panic: the verifier refuses an endless loop that is reachable.
    loop {}
}
