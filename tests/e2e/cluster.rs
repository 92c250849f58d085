//! A real container runtime creates and deletes pods.

use lab::{
    Result,
    cluster::{Cluster, Wanted},
};

#[test]
fn a_pod_runs() -> Result<()> {
    let cluster = Cluster::up(1)?;
    println!("{:?} {:?}", cluster.cri(0).version()?, cluster.cri(0).conditions()?);
    let pod = cluster.pod(0, &Wanted::plain("ioc-a"))?;
    println!("{pod:?}");
    cluster.start_ioc(&pod, "A")?;
    println!("{}", cluster.log(&pod, "ioc"));
    cluster.delete(&pod)?;
    Ok(())
}
