//! Every kernel field that programs read, against what a C compiler makes of the same kernel's
//! structs: `bpftool` prints them as C, gcc lays them out.
//!
//! That is this machine's kernel, or the one whose type information is in the file that
//! `NETWATCH_TEST_BTF` names: `cargo xtask kernels` does that for each kernel that it boots.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use ebpf_abi::kernel_fields;
use full_stack_probes::btf::{Btf, Field};

macro_rules! table {
    ($($symbol:ident: $ty:literal, $path:literal, $size:literal;)*) => {
        const FIELDS: &[(&str, &str, &str)] = &[$((stringify!($symbol), $ty, $path),)*];
    };
}

kernel_fields!(table);

/// Ways to write a path in C: a step may have several names, and may be an array.
fn expressions(path: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut steps = path.split('.').peekable();
    while let Some(step) = steps.next() {
        let last = steps.peek().is_none();
        all = all
            .iter()
            .flat_map(|before| {
                step.split('|').flat_map(move |name| {
                    let plain = format!("{before}.{name}");
                    let array = (!last).then(|| format!("{plain}[0]"));
                    [Some(plain), array].into_iter().flatten()
                })
            })
            .collect();
    }
    all.iter()
        .map(|text| text.trim_start_matches('.').to_owned())
        .collect()
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    BitField,
}

/// What gcc says of `(struct, expression)`: those that it refuses are not there.
fn compiled(header: &Path, wanted: &[(&str, String)]) -> BTreeMap<(String, String), Field> {
    let folder = header.parent().unwrap();
    let include = format!("#include \"{}\"\n", header.display());
    let source = folder.join("probe.c");
    let mut text = include.clone();
    for (index, (ty, expression)) in wanted.iter().enumerate() {
        writeln!(
            text,
            "unsigned long c{index} = __builtin_offsetof(struct {ty}, {expression});"
        )
        .unwrap();
    }
    std::fs::write(&source, text).unwrap();
    let errors = Command::new("gcc")
        .args(["-fsyntax-only", "-w", "-fmax-errors=0"])
        .arg(&source)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    let mut refused = BTreeSet::new();
    let mut kinds = BTreeMap::new();
    for line in String::from_utf8_lossy(&errors.stderr).lines() {
        let Some(rest) = line.strip_prefix(&format!("{}:", source.display())) else {
            continue;
        };
        let Some((number, message)) = rest.split_once(':') else {
            continue;
        };
        if !message.contains("error:") {
            continue;
        }
        // The first line includes the header.
        let index = number.parse::<usize>().unwrap() - 2;
        if message.contains("bit-field") {
            kinds.insert(index, Kind::BitField);
        } else {
            refused.insert(index);
        }
    }

    let mut text = include;
    text += "int printf(const char *, ...);\nint main(void) {\n";
    for (index, (ty, expression)) in wanted.iter().enumerate() {
        if refused.contains(&index) {
            continue;
        }
        match kinds.get(&index).copied().unwrap_or(Kind::Plain) {
            Kind::Plain => writeln!(
                text,
                "printf(\"{index} %lu %lu 0 0\\n\", __builtin_offsetof(struct {ty}, {expression}), \
                 sizeof(((struct {ty} *)0)->{expression}));"
            ),
            Kind::BitField => writeln!(
                text,
                "{{ static struct {ty} t; unsigned char *b = (void *)&t; unsigned long i, at = 0, n = 0; \
                 t.{expression} = -1; \
                 for (i = 0; i < 8 * sizeof t; i++) if (b[i / 8] >> (i % 8) & 1) {{ if (!n) at = i; n++; }} \
                 printf(\"{index} %lu 1 %lu %lu\\n\", at / 8, at % 8, n); }}"
            ),
        }
        .unwrap();
    }
    text += "return 0; }\n";
    std::fs::write(&source, text).unwrap();
    let program = folder.join("probe");
    let built = Command::new("gcc")
        .args(["-w", "-O0", "-o"])
        .arg(&program)
        .arg(&source)
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let output = Command::new(&program).output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .map(|line| {
            let numbers: Vec<u32> = line.split(' ').map(|word| word.parse().unwrap()).collect();
            let [index, offset, size, shift, bits] = numbers[..] else {
                panic!("{line}")
            };
            let (ty, expression) = &wanted[index as usize];
            let field = Field {
                offset,
                size,
                bits: (bits > 0).then_some((shift, bits)),
            };
            (((*ty).to_owned(), expression.clone()), field)
        })
        .collect()
}

/// Compares all fields of one kernel; how many it has.
fn compare(file: &Path, folder: &Path) -> usize {
    let name = file.file_name().unwrap().to_string_lossy();
    let dump = Command::new("bpftool")
        .args(["btf", "dump", "file"])
        .arg(file)
        .args(["format", "c"])
        .output()
        .unwrap();
    assert!(
        dump.status.success(),
        "{name}: {}",
        String::from_utf8_lossy(&dump.stderr)
    );
    let header = folder.join("vmlinux.h");
    std::fs::write(&header, dump.stdout).unwrap();
    let btf = Btf::parse(std::fs::read(file).unwrap()).unwrap();

    let wanted: Vec<(&str, String)> = FIELDS
        .iter()
        .flat_map(|(_, ty, path)| {
            expressions(path)
                .into_iter()
                .map(move |expression| (*ty, expression))
        })
        .collect();
    let compiled = compiled(&header, &wanted);
    let mut present = 0;
    let mut wrong = Vec::new();
    for (symbol, ty, path) in FIELDS {
        let expected = expressions(path)
            .into_iter()
            .find_map(|expression| compiled.get(&((*ty).to_owned(), expression)));
        let found = btf.field(ty, path).ok();
        present += usize::from(expected.is_some());
        let verdict = if found.as_ref() == expected {
            "equal"
        } else {
            wrong.push(format!(
                "{symbol}: {found:?} found, {expected:?} by the compiler"
            ));
            "WRONG"
        };
        match expected {
            Some(field) => println!("FIELD: {name} {symbol} at {}: {verdict}", field.offset),
            None => println!("{name} has no {symbol}"),
        }
    }
    assert!(wrong.is_empty(), "{name}: {wrong:#?}");
    // Those without which nothing works.
    for symbol in ["SK_FAMILY", "SK_DADDR", "TP_SRTT", "TP_SND_UNA", "SKB_CB"] {
        let (_, ty, path) = FIELDS.iter().find(|(found, ..)| *found == symbol).unwrap();
        assert!(btf.field(ty, path).is_ok(), "{name} has no {symbol}");
    }
    present
}

#[test]
fn every_field_is_where_a_compiler_puts_it() {
    for program in ["bpftool", "gcc"] {
        if Command::new(program).arg("--version").output().is_err() {
            println!(
                "SKIPPED: no {program} here; `cargo xtask kernels` compares outside of the guest"
            );
            return;
        }
    }
    let file = std::env::var_os("NETWATCH_TEST_BTF")
        .map_or_else(|| PathBuf::from("/sys/kernel/btf/vmlinux"), PathBuf::from);
    if !file.exists() {
        println!("SKIPPED: no kernel's type information here");
        return;
    }
    let folder = std::env::temp_dir().join(format!("netwatch-offsets-{}", std::process::id()));
    std::fs::create_dir(&folder).unwrap();
    let result = std::panic::catch_unwind(|| assert!(compare(&file, &folder) > 20));
    std::fs::remove_dir_all(&folder).unwrap();
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}
