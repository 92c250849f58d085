//! Which eBPF object the build script takes: the real script and the real cargo in a checkout of nothing else, with a
//! toolchain for the programs that only copies their source.
#![allow(clippy::unwrap_used)] // a test's helper fails its test

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

/// Stands for the compiler of the programs.
const CARGO: &str = r#"#!/bin/sh
while [ "$1" != --target-dir ]; do shift; done
mkdir -p "$2/bpfel-unknown-none/release"
cp src/main.rs "$2/bpfel-unknown-none/release/iocast"
"#;
const MANIFEST: &str = "[package]\nname = \"iocast-datapath\"\nedition = \"2024\"\n";
const MAIN: &str = r#"fn main() { print!("{}", include_str!(concat!(env!("OUT_DIR"), "/iocast"))) }"#;

struct Checkout(PathBuf);

impl Checkout {
    /// One in a directory of its own, with `recorded` as the recorded object of programs whose source is `source`.
    fn new(name: &str, recorded: &str, source: &str) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&directory);
        let checkout = Self(directory.join("checkout"));
        let ebpf = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        for (path, text) in [
            ("Cargo.toml", "[workspace]\nresolver = \"3\"\nmembers = [\"ebpf/datapath\"]\n"),
            ("ebpf/Cargo.toml", &read(&ebpf.join("Cargo.toml"))),
            ("ebpf/Cargo.lock", ""),
            ("ebpf/datapath/Cargo.toml", MANIFEST),
            ("ebpf/datapath/build.rs", &read(&ebpf.join("datapath/build.rs"))),
            ("ebpf/datapath/src/main.rs", MAIN),
            ("ebpf/abi/Cargo.toml", ""),
            ("ebpf/abi/src/lib.rs", ""),
            ("ebpf/wire/Cargo.toml", ""),
            ("ebpf/wire/src/lib.rs", ""),
            ("ebpf/programs/Cargo.toml", ""),
            ("ebpf/programs/src/main.rs", source),
            ("ebpf/object/iocast.o", recorded),
            ("../toolchain/bin/cargo", CARGO),
        ] {
            checkout.write(path, text);
        }
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(directory.join("toolchain/bin/cargo"), executable).unwrap();
        run(Command::new("sh").current_dir(&checkout.0).args([
            "-c",
            "sha256sum ebpf/programs/src/main.rs ebpf/object/iocast.o >ebpf/object/provenance",
        ]));
        checkout
    }

    /// A copy with all that was built, as `cp -a` makes it.
    fn copy(&self, name: &str) -> Self {
        let copy = Self(self.0.with_file_name(name));
        run(Command::new("cp").arg("-a").args([&self.0, &copy.0]));
        copy
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn edit_programs(&self, source: &str) {
        self.write("ebpf/programs/src/main.rs", source);
    }

    /// The object that a build here takes.
    fn object(&self, from_source: bool) -> String {
        run(Command::new(env!("CARGO"))
            .args(["run", "--quiet", "--offline"])
            .current_dir(&self.0)
            .env("EBPF_CARGO", self.0.with_file_name("toolchain").join("bin/cargo"))
            .env("EBPF_BUILD", if from_source { "1" } else { "" })
            .env_remove("CARGO_TARGET_DIR")
            .env_remove("RUSTFLAGS"))
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap()
}

fn run(command: &mut Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_recorded_object_serves_until_its_sources_change() {
    let checkout = Checkout::new("recorded", "recorded", "first");
    assert_eq!(checkout.object(false), "recorded");
    checkout.edit_programs("second");
    assert_eq!(checkout.object(false), "second");
    checkout.edit_programs("first");
    assert_eq!(checkout.object(false), "recorded");
}

#[test]
fn a_recorded_object_that_was_tampered_with_is_not_taken() {
    let checkout = Checkout::new("tampered", "recorded", "first");
    checkout.write("ebpf/object/iocast.o", "another");
    assert_eq!(checkout.object(false), "first");
}

#[test]
fn the_object_is_built_from_source_on_demand() {
    let checkout = Checkout::new("on-demand", "recorded", "first");
    assert_eq!(checkout.object(true), "first");
    assert_eq!(checkout.object(false), "recorded");
}

#[test]
fn a_copied_checkout_builds_its_own_programs() {
    let checkout = Checkout::new("copied", "recorded", "first");
    assert_eq!(checkout.object(true), "first");
    let copy = checkout.copy("copy");
    copy.edit_programs("second");
    assert_eq!(copy.object(true), "second");
    assert_eq!(checkout.object(true), "first");
}
