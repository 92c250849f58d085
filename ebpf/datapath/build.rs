//! Provides the eBPF object: the recorded one (`ebpf/object`) if the programs' sources are the ones it was built from,
//! otherwise one built here. `EBPF_BUILD=1` always builds it.
//!
//! `-Zbuild-std=core` needs library sources that match the compiler, so the first of these that has them is used:
//! `$EBPF_CARGO` (a cargo with its rustc next to it), rustup's nightly with `rust-src`, the distribution's
//! (Debian: `cargo-web rustc-web rust-web-src`). `make toolchain` installs what is missing.
#![allow(clippy::expect_used)] // a build script has nobody to report to but cargo
use std::{
    env,
    ffi::OsString,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

const TARGET: &str = "bpfel-unknown-none";
/// What the object depends on, relative to this crate: a checkout may be moved or copied together with its build output.
const SOURCES: [&str; 9] = [
    "../Cargo.toml",
    "../Cargo.lock",
    "../programs/Cargo.toml",
    "../programs/src",
    "../abi/Cargo.toml",
    "../abi/src",
    "../wire/Cargo.toml",
    "../wire/src",
    "../object",
];

fn main() {
    SOURCES.iter().for_each(|source| println!("cargo:rerun-if-changed={source}"));
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=EBPF_BUILD");
    println!("cargo:rerun-if-env-changed=EBPF_CARGO");

    // Not `env!`, which holds the path where this script was compiled.
    let root =
        fs::canonicalize(Path::new(&variable("CARGO_MANIFEST_DIR")).join("../..")).expect("the checkout");
    let out = PathBuf::from(variable("OUT_DIR"));
    if env::var_os("EBPF_BUILD").is_none_or(|build| build != "1") && is_recorded(&root) {
        fs::copy(root.join("ebpf/object/iocast.o"), out.join("iocast")).expect("the recorded eBPF object");
    } else {
        let toolchain = Toolchain::find(&root);
        fs::copy(toolchain.build(&root), out.join("iocast")).expect("the eBPF object");
        let stripped = if strip(&out.join("iocast")) { "stripped" } else { "not stripped" };
        let versions = format!("{}\n{stripped}\n", toolchain.versions());
        fs::write(out.join("toolchain"), versions).expect("versions of the toolchain");
    }
}

/// Whether the recorded object and all its sources are as recorded.
fn is_recorded(root: &Path) -> bool {
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--status", "ebpf/object/provenance"]).current_dir(root);
    check.status().is_ok_and(|status| status.success())
}

/// What builds the programs.
struct Toolchain {
    /// The directory that has its `bin`.
    root: PathBuf,
    /// Where to look for programs, the linker among them.
    path: OsString,
}

impl Toolchain {
    fn find(checkout: &Path) -> Self {
        let own = || Some(Path::new(&env::var_os("EBPF_CARGO")?).parent()?.parent()?.to_owned());
        let root = own()
            .or_else(|| sysroot_with_sources(Command::new("rustup").args(["run", "nightly", "rustc"])))
            .or_else(|| sysroot_with_sources(&mut Command::new("/usr/bin/rustc")))
            .unwrap_or_else(|| {
                panic!(
                    "no Rust toolchain with library sources for the eBPF programs: run `make toolchain`, or \
                     `rustup component add rust-src --toolchain nightly`, or set EBPF_CARGO to such a cargo"
                )
            });
        let given = env::var_os("PATH").unwrap_or_default();
        let ours = [checkout.join("target/tools/bin"), root.join("bin")];
        let path = env::join_paths(ours.into_iter().chain(env::split_paths(&given))).expect("PATH");
        Self { root, path }
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.root.join("bin").join(program));
        command.env("PATH", &self.path).env_remove("RUSTUP_TOOLCHAIN");
        command
    }

    /// Builds the programs of a checkout.
    fn build(&self, checkout: &Path) -> PathBuf {
        // One target directory for every profile of the main workspace: the programs are the same in all of them.
        let target = checkout.join("target/ebpf");
        let status = self
            .command("cargo")
            .current_dir(checkout.join("ebpf/programs"))
            .args(["build", "--locked", "--release", "--target", TARGET, "-Zbuild-std=core", "--target-dir"])
            .arg(&target)
            .env("RUSTC", self.root.join("bin/rustc"))
            .env("RUSTC_BOOTSTRAP", "1")
            .env("CARGO_ENCODED_RUSTFLAGS", self.flags(checkout))
            .env_remove("RUSTC_WORKSPACE_WRAPPER")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTFLAGS")
            .status()
            .expect("cargo for the eBPF programs");
        assert!(status.success(), "the eBPF programs do not build (is bpf-linker there? `make toolchain`)");
        target.join(TARGET).join("release/iocast")
    }

    /// The compiler's flags, which keep paths of this machine out of the object.
    fn flags(&self, checkout: &Path) -> String {
        let home = env::var_os("CARGO_HOME").map(PathBuf::from);
        let home = home.or_else(|| Some(env::home_dir()?.join(".cargo"))).unwrap_or_default();
        let hidden = [
            (checkout.to_owned(), "."),
            (home.join("registry/src"), "registry"),
            (self.sysroot().unwrap_or_default().join("lib/rustlib/src/rust"), "rust"),
        ];
        let remaps = hidden.map(|(from, to)| format!("--remap-path-prefix={}={to}", from.display()));
        let flags =
            ["--cfg=bpf_target_arch=\"x86_64\"", "-Cdebuginfo=2", "-Ctarget-cpu=v3", "-Clink-arg=--btf"];
        flags.into_iter().chain(remaps.iter().map(String::as_str)).collect::<Vec<_>>().join("\x1f")
    }

    fn sysroot(&self) -> Option<PathBuf> {
        output(self.command("rustc").args(["--print", "sysroot"])).map(PathBuf::from)
    }

    /// The versions that determine the object's bytes, a line each.
    fn versions(&self) -> String {
        let compiler = output(self.command("rustc").arg("-vV")).unwrap_or_default();
        let compiler =
            compiler.lines().filter(|line| line.starts_with("rustc ") || line.starts_with("LLVM "));
        let linker = output(Command::new("bpf-linker").arg("--version").env("PATH", &self.path));
        compiler.chain(linker.as_deref()).collect::<Vec<_>>().join("\n")
    }
}

/// Strips debugging information other than BTF from the object: dead weight in every binary. False if it cannot, since the
/// tool is rustup's.
fn strip(object: &Path) -> bool {
    let sysroot = output(Command::new(variable("RUSTC")).args(["--print", "sysroot"])).unwrap_or_default();
    let tool = Path::new(&sysroot).join("lib/rustlib").join(variable("HOST")).join("bin/rust-objcopy");
    let mut strip = Command::new(tool);
    strip.arg("--strip-debug").arg(object).env("LD_LIBRARY_PATH", Path::new(&sysroot).join("lib"));
    strip.status().is_ok_and(|status| status.success())
}

/// The sysroot of `rustc`, if it has the library sources.
fn sysroot_with_sources(rustc: &mut Command) -> Option<PathBuf> {
    let root = PathBuf::from(output(rustc.args(["--print", "sysroot"]))?);
    root.join("lib/rustlib/src/rust/library/Cargo.lock").exists().then_some(root)
}

/// A command's output, if it can be run.
fn output(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// A variable that cargo sets.
fn variable(name: &str) -> OsString {
    env::var_os(name).expect(name)
}
