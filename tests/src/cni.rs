//! A CNI runtime as the specification describes it (CNI 1.1, "Execution Protocol"), with libcni's habits.
//!
//! ADD in order, each plugin given its predecessor's result; DEL in reverse and CHECK in order with the final result of
//! ADD; GC goes on after an error. Like libcni it leaves `capabilities` in a plugin's configuration and gives GC the
//! list of valid attachments under its present and its former name.

use std::{
    collections::HashMap,
    io::Write,
    process::{Command, Stdio},
};

use serde_json::{Map, Value, json};

use crate::start;

/// A plugin's failure.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("plugin {plugin} {verb}: code {code}: {message}")]
pub struct CniError {
    /// The plugin's type.
    pub plugin: String,
    /// The verb.
    pub verb: String,
    /// The code it reported; 0 if it reported none.
    pub code: u64,
    /// The message it reported, or whatever it printed.
    pub message: String,
}

/// A network configuration list.
#[derive(Clone, Debug)]
pub struct Conflist(pub Value);

/// One attachment's parameters.
#[derive(Clone, Debug, Default)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_NETNS`.
    pub netns: String,
    /// `CNI_IFNAME`.
    pub interface: String,
    /// `CNI_ARGS`.
    pub arguments: String,
    /// What the runtime offers to plugins that declare a capability.
    pub capabilities: Map<String, Value>,
}

/// Executes plugins and remembers results, for one network on one node.
#[derive(Clone, Debug)]
pub struct Executor {
    conflist: Conflist,
    path: Vec<String>,
    results: HashMap<(String, String), Value>,
}

impl Executor {
    /// An executor of `conflist` that looks for plugins in `path`.
    pub fn new(conflist: Conflist, path: Vec<String>) -> Self {
        Self { conflist, path, results: HashMap::new() }
    }

    /// Looks for plugins in `path` from now on.
    pub fn set_path(&mut self, path: Vec<String>) {
        self.path = path;
    }

    /// Replaces the network configuration, as an installer does under a running node.
    pub fn set_conflist(&mut self, conflist: Conflist) {
        self.conflist = conflist;
    }

    /// The network configuration.
    pub fn conflist(&self) -> &Conflist {
        &self.conflist
    }

    /// Forgets the result of ADD, as a runtime that was killed does.
    pub fn forget(&mut self, attachment: &Attachment) {
        self.results.remove(&key(attachment));
    }

    /// ADD; returns the final result.
    pub fn add(&mut self, attachment: &Attachment) -> Result<Value, CniError> {
        let mut result = None;
        for plugin in self.plugins() {
            let mut config = self.config(&plugin, Some(attachment));
            config.extend(result.map(|result| ("prevResult".to_owned(), result)));
            result = Some(self.call(&plugin, "ADD", Some(attachment), &config)?.unwrap_or_default());
        }
        let result = result.unwrap_or_default();
        self.results.insert(key(attachment), result.clone());
        Ok(result)
    }

    /// DEL; may be called again and again.
    pub fn del(&mut self, attachment: &Attachment) -> Result<(), CniError> {
        for plugin in self.plugins().iter().rev() {
            self.call(plugin, "DEL", Some(attachment), &self.with_result(plugin, attachment))?;
        }
        self.results.remove(&key(attachment));
        Ok(())
    }

    /// CHECK.
    pub fn check(&self, attachment: &Attachment) -> Result<(), CniError> {
        for plugin in self.plugins() {
            self.call(&plugin, "CHECK", Some(attachment), &self.with_result(&plugin, attachment))?;
        }
        Ok(())
    }

    /// GC of everything but `valid`, by one plugin of the list.
    pub fn gc(&self, plugin_type: &str, valid: &[&Attachment]) -> Result<(), CniError> {
        let valid: Vec<_> = valid
            .iter()
            .map(|attachment| json!({ "containerID": attachment.container, "ifname": attachment.interface }))
            .collect();
        for plugin in self.plugins().iter().filter(|plugin| plugin["type"] == plugin_type) {
            let mut config = self.config(plugin, None);
            for name in ["cni.dev/valid-attachments", "cni.dev/attachments"] {
                config.insert(name.into(), valid.clone().into());
            }
            self.call(plugin, "GC", None, &config)?;
        }
        Ok(())
    }

    fn plugins(&self) -> Vec<Value> {
        self.conflist.0["plugins"].as_array().cloned().unwrap_or_default()
    }

    fn config(&self, plugin: &Value, attachment: Option<&Attachment>) -> Map<String, Value> {
        let mut config = plugin.as_object().cloned().unwrap_or_default();
        for key in ["cniVersion", "name"] {
            config.insert(key.into(), self.conflist.0[key].clone());
        }
        let offered = attachment.map(|attachment| attachment.capabilities.clone()).unwrap_or_default();
        let declared = plugin["capabilities"].as_object().cloned().unwrap_or_default();
        let runtime: Map<_, _> =
            offered.into_iter().filter(|(name, _)| declared.get(name) == Some(&Value::Bool(true))).collect();
        if !runtime.is_empty() {
            config.insert("runtimeConfig".into(), runtime.into());
        }
        config
    }

    fn with_result(&self, plugin: &Value, attachment: &Attachment) -> Map<String, Value> {
        let mut config = self.config(plugin, Some(attachment));
        config.extend(
            self.results.get(&key(attachment)).map(|result| ("prevResult".to_owned(), result.clone())),
        );
        config
    }

    /// Executes one plugin; the JSON it printed, if any.
    fn call(
        &self,
        plugin: &Value,
        verb: &str,
        attachment: Option<&Attachment>,
        config: &Map<String, Value>,
    ) -> Result<Option<Value>, CniError> {
        let name = plugin["type"].as_str().unwrap_or_default();
        let fault =
            |code: u64, message: String| CniError { plugin: name.into(), verb: verb.into(), code, message };
        let program = self.path.iter().map(|directory| format!("{directory}/{name}"));
        let program = program.into_iter().find(|program| std::path::Path::new(program).exists());
        let program = program
            .ok_or_else(|| fault(0, format!("failed to find plugin \"{name}\" in path {:?}", self.path)))?;
        let empty = Attachment::default();
        let Attachment { container, netns, interface, arguments, .. } = attachment.unwrap_or(&empty);
        let mut command = Command::new(program);
        command
            .env("CNI_COMMAND", verb)
            .env("CNI_PATH", self.path.join(":"))
            .env("CNI_CONTAINERID", container)
            .env("CNI_NETNS", netns)
            .env("CNI_IFNAME", interface)
            .env("CNI_ARGS", arguments);
        let (success, output) = pipe(command, &Value::from(config.clone()).to_string())
            .map_err(|error| fault(0, error.to_string()))?;
        let answer: Option<Value> = serde_json::from_str(&output).ok();
        if success {
            return Ok(answer);
        }
        let code = answer.as_ref().and_then(|answer| answer["code"].as_u64()).unwrap_or(0);
        let message = answer.as_ref().and_then(|answer| answer["msg"].as_str()).unwrap_or(&output);
        Err(fault(code, message.into()))
    }
}

fn key(attachment: &Attachment) -> (String, String) {
    (attachment.container.clone(), attachment.interface.clone())
}

/// Runs `command` with `input` on its stdin: whether it succeeded, and its stdout.
pub fn pipe(mut command: Command, input: &str) -> std::io::Result<(bool, String)> {
    let mut child = start(command.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A plugin that does not read its input closes the pipe; its answer tells why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output()?;
    Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into()))
}
