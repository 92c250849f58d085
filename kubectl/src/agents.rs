//! The agents: one pod a node, as the API server lists them.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;

use crate::{
    children::Running,
    kubectl::{Kubectl, Request},
    say::pass_on,
    trouble,
};

/// The container of an agent.
const CONTAINER: &str = "iocast";

/// An agent.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Agent {
    /// Its node.
    pub(crate) node: String,
    /// Its pod.
    pub(crate) pod: String,
    /// Why it cannot be asked.
    pub(crate) trouble: Option<String>,
}

/// The agents that the user wants to ask, by node; an error if there are none.
pub(crate) fn find(request: &Request) -> Result<Vec<Agent>, String> {
    let Request { kubectl, selector, .. } = request;
    let child = kubectl.pods(selector).map_err(|error| trouble::no_kubectl(&Kubectl::program(), &error))?;
    let time = Duration::from_secs(request.seconds.into());
    let ended = Running::new(child).wait_aloud(time, pass_on).map_err(|error| error.to_string())?;
    match ended.status {
        Some(status) if status.success() => {}
        status => return Err(trouble::of_listing(&kubectl.namespace, status.is_none(), &ended.err)),
    }
    let list = serde_json::from_str(&ended.out).map_err(|error| format!("kubectl get pods: {error}"))?;
    let all = read(&list, &kubectl.namespace);
    if all.is_empty() {
        return Err(trouble::no_agents(&kubectl.namespace, selector, request.command()));
    }
    wanted(all, &request.nodes)
}

/// Those of the nodes that the user named.
fn wanted(all: Vec<Agent>, nodes: &[String]) -> Result<Vec<Agent>, String> {
    if let Some(unknown) = nodes.iter().find(|node| all.iter().all(|agent| agent.node != **node)) {
        let known: Vec<_> = all.iter().map(|agent| agent.node.as_str()).collect();
        return Err(format!("no agent is on a node {unknown}; agents are on {}", known.join(", ")));
    }
    Ok(all.into_iter().filter(|agent| nodes.is_empty() || nodes.contains(&agent.node)).collect())
}

/// One agent a node, that of which most can be had: while a DaemonSet is rolled a node may have two.
fn read(list: &Value, namespace: &str) -> Vec<Agent> {
    let mut found = BTreeMap::<_, Agent>::new();
    for item in list["items"].as_array().into_iter().flatten() {
        let agent = agent(item, namespace);
        let is_better = found.get(&agent.node).is_none_or(|other| other.trouble.is_some());
        if is_better {
            found.insert(agent.node.clone(), agent);
        }
    }
    found.into_values().collect()
}

fn agent(item: &Value, namespace: &str) -> Agent {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let pod = text(&item["metadata"]["name"]);
    // A pod that has no node yet goes by its own name.
    let node = Some(text(&item["spec"]["nodeName"])).filter(|node| !node.is_empty());
    let trouble = why_not(item).map(|why| {
        format!("the pod {pod} is not running ({why}); see: kubectl -n {namespace} describe pod {pod}")
    });
    Agent { node: node.unwrap_or_else(|| pod.clone()), pod, trouble }
}

/// Why the agent's container does not run.
fn why_not(item: &Value) -> Option<String> {
    let status = &item["status"];
    let of_containers = status["containerStatuses"].as_array();
    let of_agent = of_containers.and_then(|all| all.iter().find(|status| status["name"] == CONTAINER));
    if item["metadata"]["deletionTimestamp"].is_string() {
        return Some("it is being deleted".into());
    }
    let Some(state) = of_agent.map(|status| &status["state"]) else {
        let phase = status["phase"].as_str().unwrap_or("Unknown");
        return (phase != "Running" || of_containers.is_some()).then(|| phase.to_owned());
    };
    if state["running"].is_object() {
        return None;
    }
    let reason = ["waiting", "terminated"].iter().find_map(|kind| state[kind]["reason"].as_str());
    Some(reason.unwrap_or("Unknown").into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, node: &str, state: &Value) -> Value {
        json!({ "metadata": { "name": name }, "spec": { "nodeName": node },
                "status": { "phase": "Running", "containerStatuses": [{ "name": "iocast", "state": state }] } })
    }

    fn running() -> Value {
        json!({ "running": { "startedAt": "2026-01-01T00:00:00Z" } })
    }

    #[test]
    fn each_node_has_one_agent_and_what_does_not_run_says_why() {
        let waiting = || json!({ "waiting": { "reason": "CrashLoopBackOff" } });
        let mut old = pod("iocast-old", "node-1", &running());
        old["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        let pending =
            json!({ "metadata": { "name": "iocast-p" }, "spec": {}, "status": { "phase": "Pending" } });
        let uninstalled = json!({ "metadata": { "name": "iocast-u" }, "spec": { "nodeName": "node-4" },
            "status": { "phase": "Running", "containerStatuses": [{ "name": "done", "state": running() }] } });
        let list = json!({ "items": [
            old, pod("iocast-b", "node-2", &waiting()), pod("iocast-a", "node-1", &running()), pending, uninstalled,
            pod("iocast-c", "node-3", &json!({ "terminated": { "reason": "OOMKilled" } })),
        ] });
        let found = read(&list, "iocast");
        let found: Vec<_> = found
            .iter()
            .map(|Agent { node, pod, trouble }| {
                let why = trouble.as_deref().and_then(|text| text.split(['(', ')']).nth(1));
                (node.as_str(), pod.as_str(), why)
            })
            .collect();
        assert_eq!(
            found,
            [
                ("iocast-p", "iocast-p", Some("Pending")),
                ("node-1", "iocast-a", None),
                ("node-2", "iocast-b", Some("CrashLoopBackOff")),
                ("node-3", "iocast-c", Some("OOMKilled")),
                ("node-4", "iocast-u", Some("Running")),
            ]
        );
    }

    #[test]
    fn a_node_that_has_no_agent_is_refused() {
        let all = vec![Agent { node: "node-1".into(), pod: "iocast-a".into(), trouble: None }];
        assert_eq!(wanted(all.clone(), &[]), Ok(all.clone()));
        assert_eq!(wanted(all.clone(), &["node-1".into()]), Ok(all.clone()));
        let refused = "no agent is on a node node-2; agents are on node-1";
        assert_eq!(wanted(all, &["node-2".into()]), Err(refused.into()));
    }
}
