//! `iocast`, a chained CNI plugin: makes a pod that requests it with an annotation a member of a broadcast domain. As an OCI
//! hook it does the same for containers of podman.
//!
//! It never creates or removes an interface, and never delays or fails a pod without the annotation. All state is in the
//! datapath's pinned maps, keyed by (container id, interface name); results of earlier plugins pass through unchanged.
#![forbid(unsafe_code)]

mod add;
mod annotations;
mod check;
mod del;
mod error;
mod gc;
mod hook;
mod inside;
mod request;

use std::{
    io::{IsTerminal, Read, Write, stderr, stdin, stdout},
    process::ExitCode,
};

use datapath::{printable, printable::json};
use error::CniError;
use request::{Environment, Request, VERSIONS, Verb};

/// The longest input that is read, in bytes. Kubernetes limits a pod's annotations to 256 KiB; results of other plugins
/// have a few.
const LONGEST_INPUT: u64 = 16 << 20;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.iter().map(|argument| argument.to_str()).collect::<Vec<_>>()[..] {
        [] => plugin(),
        [Some("hook")] if !stdin().is_terminal() => hook(),
        [Some("hook"), Some("--print")] => {
            print(&hook::configuration(&std::env::current_exe().unwrap_or_default()))
        }
        _ => help(),
    }
}

/// Answers a CNI runtime.
fn plugin() -> ExitCode {
    let input = read();
    let outcome = input.as_deref().map_err(CniError::clone).and_then(run);
    let (text, code) = match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => {
            let version = request::version_for_errors(input.as_deref().unwrap_or_default());
            (error.to_json(&version), ExitCode::FAILURE)
        }
    };
    print(&text);
    code
}

/// Answers an OCI runtime.
fn hook() -> ExitCode {
    match read().and_then(|input| hook::run(&input)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let message = format!("iocast: {}", printable(&error.message));
            let _ = writeln!(stderr(), "{message}"); // which runc passes on
            hook::log(&message);
            ExitCode::FAILURE
        }
    }
}

/// If whoever reads our stdout has closed it, there is nobody to report to.
fn print(text: &str) -> ExitCode {
    let _ = stdout().write_all(text.as_bytes());
    ExitCode::SUCCESS
}

/// What the runtime passes on stdin. Decoded as in Go: a text that is not UTF-8 fails no pod.
fn read() -> Result<String, CniError> {
    let fault = |what: &str| CniError::decode(format!("cannot read stdin: {what}"));
    let mut input = vec![];
    stdin().take(LONGEST_INPUT + 1).read_to_end(&mut input).map_err(|error| fault(&error.to_string()))?;
    if input.len() as u64 > LONGEST_INPUT {
        return Err(fault(&format!("it is longer than {} MiB", LONGEST_INPUT >> 20)));
    }
    Ok(String::from_utf8(input)
        .unwrap_or_else(|wrong| String::from_utf8_lossy(wrong.as_bytes()).into_owned()))
}

/// Executes the verb in the environment; returns the output for stdout.
fn run(input: &str) -> Result<String, CniError> {
    let environment = Environment::read()?;
    let request = Request::parse(input, &environment)?;
    match environment.verb {
        Verb::Add => add::run(&environment, &request)
            .inspect_err(|error| _ = request.bpffs().map(|bpffs| add::count(&bpffs, error))),
        Verb::Del => del::run(&environment, &request),
        Verb::Check => check::run(&environment, &request),
        Verb::Gc => gc::run(&request),
        // Pods without the annotation work whatever is broken here, and an error would make the whole node NotReady.
        Verb::Status => Ok(String::new()),
        Verb::Version => Ok(version(&request)),
    }
}

fn version(request: &Request) -> String {
    json(&serde_json::json!({ "cniVersion": request.version, "supportedVersions": VERSIONS }).to_string())
}

/// Runtimes use the environment and stdin: only a person passes arguments.
fn help() -> ExitCode {
    let text = format!(
        "iocast {}: chained CNI plugin, broadcast for annotated pods (CNI {}), and OCI hook for containers of podman\n\n\
         The container runtime runs it. To try it by hand, set CNI_COMMAND and the other CNI_* variables as the CNI\n\
         specification describes, and pass the network configuration on stdin, for example:\n\n    \
         CNI_COMMAND=VERSION iocast </dev/null\n\n\
         Entry in a conflist's `plugins`, after the primary plugin:\n\n    \
         {{\"type\": \"iocast\", \"capabilities\": {{\"io.kubernetes.cri.pod-annotations\": true}}}}\n\n\
         Optional key: \"bpffs\", the BPF file system where iocast-node pinned the datapath (default {}).\n\
         podman runs it as `iocast hook`, with the container's state on stdin, once it is told so, as root:\n\n    \
         iocast hook --print >/usr/share/containers/oci/hooks.d/iocast.json\n\n\
         A pod joins a domain with the annotation {}: <domain>. It may request external ports with\n\
         {}: tcp/5064=65064, udp/5064=65064, and an address of its own on the LAN with\n\
         {}: 172.23.0.50, or a range of which each pod of a StatefulSet takes the one at its ordinal.\n\
         With {}: BL07I-EA-, BL07I-DI- it gets searches only for names that begin so.\n",
        env!("CARGO_PKG_VERSION"),
        VERSIONS.join(", "),
        datapath::BPFFS,
        membership::annotation::DOMAIN,
        membership::annotation::PORTS,
        membership::annotation::ADDRESS,
        membership::annotation::PVS,
    );
    print(&text)
}
