//! Pods of manifests that users apply, as kubelet makes them: with their commands, privileges and ConfigMaps, but of the
//! lab's image.

use serde_json::Value;

use super::{
    Cluster, RunningPod, Wanted,
    cri::{ContainerConfig, Image},
    daemonset::container,
    pod::IMAGE,
    wait_until,
};
use crate::{Result, node::NODES};

/// `CONTAINER_EXITED`.
const EXITED: i32 = 2;

impl Cluster {
    /// Creates the pod that `template` describes, a Pod or that of a workload, and starts its only container. What it mounts
    /// of ConfigMaps is found in `objects`. Returns the pod and the container's id.
    pub fn workload(
        &self,
        node: usize,
        name: &str,
        template: &Value,
        objects: &[Value],
    ) -> Result<(RunningPod, String)> {
        let spec = &template["spec"];
        self.write_config_maps(node, spec, objects)?;
        let annotations = template["metadata"]["annotations"].as_object().into_iter().flatten();
        let annotations: Vec<_> =
            annotations.map(|(key, value)| (key.as_str(), value.as_str().unwrap_or_default())).collect();
        let shares_processes = spec["shareProcessNamespace"] == true;
        let wanted = Wanted { annotations: &annotations, shares_processes, ..Wanted::plain(name) };
        let pod = self.pod(node, &wanted)?;
        let image = Some(Image { image: IMAGE.into() });
        let id = self.run_container(&pod, ContainerConfig { image, ..container(spec, NODES[node])? })?;
        Ok((pod, id))
    }

    /// Puts the ConfigMaps that a pod mounts where the lab mounts them from: at the same place of the node.
    fn write_config_maps(&self, node: usize, spec: &Value, objects: &[Value]) -> Result<()> {
        let items = |value: &Value| value.as_array().cloned().unwrap_or_default();
        for volume in items(&spec["volumes"]) {
            let wanted = &volume["configMap"]["name"];
            let map = objects
                .iter()
                .find(|object| object["kind"] == "ConfigMap" && object["metadata"]["name"] == *wanted);
            let mounts = items(&spec["containers"][0]["volumeMounts"]);
            let mount = mounts.iter().find(|mount| mount["name"] == volume["name"]);
            let directory = mount.and_then(|mount| mount["mountPath"].as_str()).unwrap_or_default();
            for (key, content) in map.and_then(|map| map["data"].as_object()).into_iter().flatten() {
                self.write(node, &format!("{directory}/{key}"), content.as_str().unwrap_or_default())?;
            }
        }
        Ok(())
    }

    /// The exit code of a container's program, once it has ended.
    pub fn exit_code(&self, node: usize, id: &str) -> Result<i32> {
        wait_until("the end of a program", || Ok(self.cri(node).container_status(id)?.state == EXITED))?;
        Ok(self.cri(node).container_status(id)?.exit_code)
    }
}
