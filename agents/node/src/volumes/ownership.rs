//! Whose a volume's files are: `fsGroup`, and the one user that all containers run as.
use serde_json::Value;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

/// What a group gets of each file, and of each directory besides (kubelet's `SetVolumeOwnership`).
const GROUP_READS: u32 = 0o440;
const GROUP_WRITES: u32 = 0o660;
const GROUP_ENTERS: u32 = 0o2110;

/// None: as the files are made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Owner {
    pub user: Option<u32>,
    pub group: Option<u32>,
}

pub fn fs_group(pod: &Value) -> Option<u32> {
    u32::try_from(pod["spec"]["securityContext"]["fsGroup"].as_i64()?).ok()
}

/// The user of all the pod's containers, if it is one.
pub fn only_user(pod: &Value) -> Option<u32> {
    let spec = &pod["spec"];
    let lists = ["containers", "initContainers", "ephemeralContainers"];
    let all = lists.into_iter().flat_map(|list| spec[list].as_array().into_iter().flatten());
    let mut users = all.map(|container| {
        let own = container["securityContext"]["runAsUser"].as_i64();
        own.or_else(|| spec["securityContext"]["runAsUser"].as_i64())
    });
    let first = users.next()??;
    users.all(|user| user == Some(first)).then(|| u32::try_from(first).ok())?
}

impl Owner {
    pub fn of(pod: &Value) -> Self {
        Self { user: only_user(pod), group: fs_group(pod) }
    }

    /// Only the group: for directories that containers write to.
    pub fn group_of(pod: &Value) -> Self {
        Self { user: None, group: fs_group(pod) }
    }

    /// Gives a directory and all that is in it to the owner.
    pub fn give(self, path: &Path, writable: bool) -> std::io::Result<()> {
        if self.user.is_none() && self.group.is_none() {
            return Ok(());
        }
        let meta = fs::symlink_metadata(path)?;
        if meta.is_symlink() {
            return Ok(());
        }
        chown(path, self.user, self.group)?;
        if self.group.is_some() {
            let access = if writable { GROUP_WRITES } else { GROUP_READS };
            let enter = if meta.is_dir() { GROUP_ENTERS } else { 0 };
            // After the change of owner, which takes the set-group-ID bit away.
            fs::set_permissions(path, fs::Permissions::from_mode((meta.mode() & 0o7777) | access | enter))?;
        }
        if meta.is_dir() {
            for entry in fs::read_dir(path)? {
                self.give(&entry?.path(), writable)?;
            }
        }
        Ok(())
    }
}

/// Gives the files of a volume that outlives its pods to the pod's group, once a pod: a mark beside the pod's volumes says that
/// it was done. With `fsGroupChangePolicy: OnRootMismatch` not if the volume's own directory is right already.
pub fn claim(pod: &Value, dir: &Path, path: &Path) -> std::io::Result<()> {
    let Some(group) = fs_group(pod) else { return Ok(()) };
    let mark = dir.with_extension("owned");
    if mark.exists() {
        return Ok(());
    }
    // A volume may be named by a link; those inside it are left alone.
    let path = path.canonicalize()?;
    let meta = fs::metadata(&path)?;
    let root_fits = meta.gid() == group && meta.mode() & 0o2070 == 0o2070;
    let asks_root = pod["spec"]["securityContext"]["fsGroupChangePolicy"] == "OnRootMismatch";
    if !(asks_root && root_fits) {
        Owner::group_of(pod).give(&path, true)?;
    }
    if let Some(parent) = mark.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(mark, [])
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_volume_that_a_link_names_is_given_to_the_group_and_what_its_links_lead_to_is_not() {
        let dir = std::env::temp_dir().join(format!("pilothouse-claim-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        for name in ["volume", "elsewhere"] {
            fs::create_dir_all(dir.join(name)).unwrap();
            fs::set_permissions(dir.join(name), fs::Permissions::from_mode(0o700)).unwrap();
        }
        std::os::unix::fs::symlink(dir.join("volume"), dir.join("link")).unwrap();
        std::os::unix::fs::symlink(dir.join("elsewhere"), dir.join("volume/out")).unwrap();
        // Its own group is one that any user may give a file to.
        let group = fs::metadata(&dir).unwrap().gid();
        let pod = json!({"spec": {"securityContext": {"fsGroup": group}}});
        claim(&pod, &dir.join("pod/data"), &dir.join("link")).unwrap();
        let mode = |name: &str| fs::metadata(dir.join(name)).unwrap().mode() & 0o7777;
        assert_eq!((mode("volume"), mode("elsewhere")), (0o2770, 0o700));
        fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_one_user_is_known_where_all_containers_share_it() {
        let pod = |pod: Value, a: Value, b: Value| {
            let container = |user: Value| json!({"securityContext": {"runAsUser": user}});
            json!({"spec": {"securityContext": {"runAsUser": pod}, "containers": [container(a), container(b)]}})
        };
        assert_eq!(only_user(&pod(json!(5), Value::Null, Value::Null)), Some(5));
        assert_eq!(only_user(&pod(json!(5), json!(6), Value::Null)), None);
        assert_eq!(only_user(&pod(Value::Null, json!(6), json!(6))), Some(6));
        assert_eq!(only_user(&pod(Value::Null, Value::Null, Value::Null)), None);
    }
}
