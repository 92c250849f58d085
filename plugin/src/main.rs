//! `iocast`, a chained CNI plugin: makes a pod that requests it with an annotation a member of a broadcast domain.
//!
//! It never creates or removes an interface, and never delays or fails a pod without the annotation. All state is in the
//! datapath's pinned maps, keyed by (container id, interface name); results of earlier plugins pass through unchanged.
#![forbid(unsafe_code)]

mod add;
mod check;
mod del;
mod error;
mod gc;
mod inside;
mod request;

use std::{
    io::{Read, Write, stdin, stdout},
    process::ExitCode,
};

use datapath::{State, printable::json};
use error::CniError;
use request::{Environment, Request, VERSIONS, Verb};

/// The longest input that is read, in bytes. Kubernetes limits a pod's annotations to 256 KiB; results of other plugins
/// have a few.
const LONGEST_INPUT: u64 = 16 << 20;

fn main() -> ExitCode {
    if std::env::args().len() > 1 {
        return help();
    }
    let input = read();
    let outcome = input.as_deref().map_err(CniError::clone).and_then(run);
    let (text, code) = match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => {
            let version = request::version_for_errors(input.as_deref().unwrap_or_default());
            (error.to_json(&version), ExitCode::FAILURE)
        }
    };
    // If the runtime has closed our stdout, there is nobody to report to.
    let _ = stdout().write_all(text.as_bytes());
    code
}

/// The network configuration on stdin. Decoded as in Go: a text that is not UTF-8 fails no pod.
fn read() -> Result<String, CniError> {
    let fault =
        |what: &str| CniError::decode(format!("cannot read the network configuration from stdin: {what}"));
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
        Verb::Add => add::run(&environment, &request).inspect_err(|error| count(&request, error)),
        Verb::Del => del::run(&environment, &request),
        Verb::Check => check::run(&environment, &request),
        Verb::Gc => gc::run(&request),
        // Pods without the annotation work whatever is broken here, and an error would make the whole node NotReady.
        Verb::Status => Ok(String::new()),
        Verb::Version => Ok(version(&request)),
    }
}

/// Counts an ADD that failed, for the agent's metrics; if it cannot be, the runtime is told all the same.
fn count(request: &Request, error: &CniError) {
    if let Ok(mut state) = request.bpffs().and_then(|bpffs| Ok(State::open(&bpffs)?)) {
        let _ = state.count_refused(error.reason());
    }
}

fn version(request: &Request) -> String {
    json(&serde_json::json!({ "cniVersion": request.version, "supportedVersions": VERSIONS }).to_string())
}

/// Runtimes use the environment and stdin: only a person passes arguments.
fn help() -> ExitCode {
    let text = format!(
        "iocast {}: chained CNI plugin, broadcast for annotated pods (CNI {})\n\n\
         The container runtime runs it. To try it by hand, set CNI_COMMAND and the other CNI_* variables as the CNI\n\
         specification describes, and pass the network configuration on stdin, for example:\n\n    \
         CNI_COMMAND=VERSION iocast </dev/null\n\n\
         Entry in a conflist's `plugins`, after the primary plugin:\n\n    \
         {{\"type\": \"iocast\", \"capabilities\": {{\"io.kubernetes.cri.pod-annotations\": true}}}}\n\n\
         Optional key: \"bpffs\", the BPF file system where iocast-node pinned the datapath (default {}).\n\
         A pod joins a domain with the annotation {}: <domain>. It may request external ports with\n\
         {}: tcp/5064=15064, udp/5064=15064, and an address of its own on the LAN with\n\
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
    let _ = stdout().write_all(text.as_bytes()); // whether or not anybody reads on
    ExitCode::SUCCESS
}
