//! `pilothouse.io/nfs`: a directory on an export; `pilothouse.io/efs`: the same on Amazon's EFS, which is NFS 4.1.
use super::{Maker, Order};
use pilothouse_api::storage::{EFS, NFS, NFS_SHARE};
use serde_json::{Value, json};

pub struct Nfs;
pub struct Efs;

/// What AWS recommends for EFS ("Mounting with NFS: recommended settings").
const EFS_OPTIONS: &[&str] =
    &["nfsvers=4.1", "rsize=1048576", "wsize=1048576", "hard", "timeo=600", "retrans=2", "noresvport"];

impl Maker for Nfs {
    fn name(&self) -> &'static str {
        NFS
    }

    /// Parameters `server`, `share`, and `subDir` with names to be filled in: those of csi-driver-nfs.
    fn fill(&self, order: &Order<'_>, volume: &mut Value) -> Result<(), String> {
        let (server, share) = (order.required("server")?, order.required("share")?);
        fill(order, server, share, order.parameter("subDir"), volume)
    }
}

impl Maker for Efs {
    fn name(&self) -> &'static str {
        EFS
    }

    /// Parameters `fileSystemId`, `region`, and `basePath` and `subPathPattern` as aws-efs-csi-driver has them.
    fn fill(&self, order: &Order<'_>, volume: &mut Value) -> Result<(), String> {
        let server =
            format!("{}.efs.{}.amazonaws.com", order.required("fileSystemId")?, order.required("region")?);
        let share = order.parameter("basePath").unwrap_or("/");
        let pattern = order
            .parameter("subPathPattern")
            .map(|pattern| pattern.replace("${.PVC.", "${pvc.").replace("${.PV.", "${pv."));
        if !volume["spec"]["mountOptions"].is_array() {
            volume["spec"]["mountOptions"] = json!(EFS_OPTIONS);
        }
        fill(order, &server, share, pattern.as_deref(), volume)
    }
}

fn fill(
    order: &Order<'_>,
    server: &str,
    share: &str,
    dir: Option<&str>,
    volume: &mut Value,
) -> Result<(), String> {
    let dir = dir.map_or_else(|| order.volume.to_owned(), |template| order.expanded(template));
    let dir = dir.trim_matches('/');
    let is_odd = |part: &str| matches!(part, "" | "." | "..") || part.contains("${");
    if !share.starts_with('/') || dir.split('/').any(is_odd) {
        return Err(format!("{dir:?} is no directory below {share:?}"));
    }
    // The node mounts the share, to make the directory in it.
    volume["metadata"]["annotations"][NFS_SHARE] = share.into();
    volume["spec"]["nfs"] =
        json!({"server": server, "path": format!("{}/{dir}", share.trim_end_matches('/'))});
    Ok(())
}
