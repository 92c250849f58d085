//! Builds the eBPF object for `ebpf/programs`.
//!
//! `-Zbuild-std=core` needs library sources that match the compiler, so the first of these that has them is taken:
//! `$EBPF_CARGO` (a cargo with its rustc beside it), rustup's nightly with `rust-src`, the distribution's
//! (Debian: `cargo-web rustc-web rust-web-src`). `make toolchain` installs what is missing.
#![allow(clippy::expect_used)] // a build script has nobody to report to but cargo
use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for source in ["programs", "wire", "abi"] {
        println!("cargo:rerun-if-changed={}", root.join("ebpf").join(source).display());
    }
    println!("cargo:rerun-if-env-changed=EBPF_CARGO");

    let toolchain = toolchain().unwrap_or_else(|| {
        panic!(
            "no Rust toolchain with library sources for the eBPF programs: run `make toolchain`, or \
             `rustup component add rust-src --toolchain nightly`, or set EBPF_CARGO to such a cargo"
        )
    });
    // One target directory for every profile of the main workspace: the programs are the same in all of them.
    let target = root.join("target/ebpf");
    let given = env::var_os("PATH").unwrap_or_default();
    let path =
        [root.join("target/tools/bin"), toolchain.join("bin")].into_iter().chain(env::split_paths(&given));
    let flags = [
        &format!("--cfg=bpf_target_arch=\"{}\"", env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default()),
        "-Cdebuginfo=2",
        "-Ctarget-cpu=v3",
        "-Clink-arg=--btf",
    ]
    .join("\x1f");
    let status = Command::new(toolchain.join("bin/cargo"))
        .current_dir(root.join("ebpf/programs"))
        .args(["build", "--locked", "--release", "--target", TARGET, "-Zbuild-std=core", "--target-dir"])
        .arg(&target)
        .env("PATH", env::join_paths(path).expect("PATH"))
        .env("RUSTC", toolchain.join("bin/rustc"))
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .env_remove("RUSTC_WORKSPACE_WRAPPER")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTFLAGS")
        .status()
        .expect("cargo for the eBPF programs");
    assert!(status.success(), "the eBPF programs do not build (is bpf-linker there? `make toolchain`)");
    let object = PathBuf::from(env::var_os("OUT_DIR").expect("OUT_DIR")).join("iocast");
    fs::copy(target.join(TARGET).join("release/iocast"), object).expect("the eBPF object");
}

/// Root of the first toolchain that has the library sources.
fn toolchain() -> Option<PathBuf> {
    let own =
        env::var_os("EBPF_CARGO").and_then(|cargo| Some(Path::new(&cargo).parent()?.parent()?.to_owned()));
    own.or_else(|| sysroot(Command::new("rustup").args(["run", "nightly", "rustc"])))
        .or_else(|| sysroot(&mut Command::new("/usr/bin/rustc")))
}

/// The sysroot of `rustc`, if it has the library sources.
fn sysroot(rustc: &mut Command) -> Option<PathBuf> {
    let output = rustc.args(["--print", "sysroot"]).output().ok().filter(|output| output.status.success())?;
    let root = PathBuf::from(String::from_utf8(output.stdout).ok()?.trim());
    root.join("lib/rustlib/src/rust/library/Cargo.lock").exists().then_some(root)
}
