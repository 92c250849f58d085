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

use error::CniError;
use request::{Environment, Request, VERSIONS, Verb};

fn main() -> ExitCode {
    if std::env::args().len() > 1 {
        return help();
    }
    let mut input = String::new();
    let read = stdin().read_to_string(&mut input);
    let outcome = match read {
        Ok(_) => run(&input),
        Err(error) => {
            Err(CniError::decode(format!("cannot read the network configuration from stdin: {error}")))
        }
    };
    let (text, code) = match outcome {
        Ok(output) => (output, ExitCode::SUCCESS),
        Err(error) => (error.to_json(&request::version_for_errors(&input)), ExitCode::FAILURE),
    };
    // If the runtime has closed our stdout, there is nobody to report to.
    let _ = stdout().write_all(text.as_bytes());
    code
}

/// Executes the verb in the environment; returns the output for stdout.
fn run(input: &str) -> Result<String, CniError> {
    let environment = Environment::read()?;
    let request = Request::parse(input, &environment)?;
    match environment.verb {
        Verb::Add => add::run(&environment, &request),
        Verb::Del => del::run(&environment, &request),
        Verb::Check => check::run(&environment, &request),
        Verb::Gc => gc::run(&request),
        // Pods without the annotation work whatever is broken here, and an error would make the whole node NotReady.
        Verb::Status => Ok(String::new()),
        Verb::Version => Ok(version(&request)),
    }
}

fn version(request: &Request) -> String {
    serde_json::json!({ "cniVersion": request.version, "supportedVersions": VERSIONS }).to_string()
}

/// Runtimes use the environment and stdin: only a person passes arguments.
fn help() -> ExitCode {
    println!(
        "iocast {}: chained CNI plugin, broadcast for annotated pods (CNI {})\n\n\
         The container runtime runs it. To try it by hand, set CNI_COMMAND and the other CNI_* variables as the CNI\n\
         specification describes, and pass the network configuration on stdin, for example:\n\n    \
         CNI_COMMAND=VERSION iocast </dev/null\n\n\
         Entry in a conflist's `plugins`, after the primary plugin:\n\n    \
         {{\"type\": \"iocast\", \"capabilities\": {{\"io.kubernetes.cri.pod-annotations\": true}}}}\n\n\
         Optional key: \"bpffs\", the BPF file system where iocast-node pinned the datapath (default {}).\n\
         A pod joins a domain with the annotation {}: <domain>, and requests external ports with\n\
         {}: tcp/5064=15064, udp/5064=15064.",
        env!("CARGO_PKG_VERSION"),
        VERSIONS.join(", "),
        datapath::BPFFS,
        membership::annotation::DOMAIN,
        membership::annotation::PORTS,
    );
    ExitCode::SUCCESS
}
