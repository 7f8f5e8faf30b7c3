//! From a container's `volumeMounts` to what Docker binds: sub-paths, propagation, read-only.
use super::Paths;
use crate::environment;
use anyhow::{Context, Error, Result, bail};
use bollard::models::{DeviceMapping, Mount, MountBindOptions, MountBindOptionsPropagationEnum, MountType};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// A container's mounts. `env` is for paths that name variables.
pub fn mounts(spec: &Value, paths: &Paths, env: &[(String, String)]) -> Result<Vec<Mount>> {
    let known: BTreeMap<String, String> = env.iter().cloned().collect();
    let mut mounts = Vec::new();
    for wanted in spec["volumeMounts"].as_array().into_iter().flatten() {
        let text = |field: &str| wanted[field].as_str().filter(|text| !text.is_empty());
        let name = text("name").unwrap_or_default();
        let volume = paths.get(name).with_context(|| format!("the pod has no volume {name:?}"))?;
        if volume.is_device {
            bail!("volume {name:?} has volumeMode Block, but is specified in volumeMounts");
        }
        let sub = match (text("subPath"), text("subPathExpr")) {
            (Some(path), _) => Some(path.to_owned()),
            (None, Some(path)) => Some(environment::expand_whole(path, &known).map_err(Error::msg)?),
            (None, None) => None,
        };
        let source = match sub {
            Some(sub) => below(&volume.path, &sub)
                .with_context(|| format!("failed to prepare subPath for volumeMount {name:?}"))?,
            None => volume.path.clone(),
        };
        let read_only = volume.read_only || wanted["readOnly"] == true;
        let mut mount = bind(&source, text("mountPath").unwrap_or_default(), read_only);
        let propagation = match text("mountPropagation") {
            Some("HostToContainer") => Some(MountBindOptionsPropagationEnum::RSLAVE),
            Some("Bidirectional") => Some(MountBindOptionsPropagationEnum::RSHARED),
            _ => None,
        };
        if propagation.is_some() {
            mount.bind_options = Some(MountBindOptions { propagation, ..MountBindOptions::default() });
        }
        mounts.push(mount);
    }
    Ok(mounts)
}

/// A container's block devices: `volumeDevices`.
pub fn devices(spec: &Value, paths: &Paths) -> Result<Vec<DeviceMapping>> {
    let mut devices = Vec::new();
    for wanted in spec["volumeDevices"].as_array().into_iter().flatten() {
        let name = wanted["name"].as_str().unwrap_or_default();
        let volume = paths.get(name).with_context(|| format!("the pod has no volume {name:?}"))?;
        if !volume.is_device {
            bail!("volume {name:?} has volumeMode Filesystem, but is specified in volumeDevices");
        }
        devices.push(DeviceMapping {
            path_on_host: Some(volume.path.to_string_lossy().into_owned()),
            path_in_container: wanted["devicePath"].as_str().map(str::to_owned),
            cgroup_permissions: Some(if volume.read_only { "r" } else { "mrw" }.into()),
        });
    }
    Ok(devices)
}

pub fn bind(source: &Path, target: &str, read_only: bool) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(source.to_string_lossy().into_owned()),
        typ: Some(MountType::BIND),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

/// A path inside a volume, with what is missing made as directories. A link that a container placed there may not lead out.
fn below(volume: &Path, path: &str) -> Result<PathBuf> {
    if path.starts_with('/') {
        bail!("error SubPath `{path}` must not be an absolute path");
    }
    let root = volume.canonicalize()?;
    let mut at = root.clone();
    for part in path.split('/').filter(|part| !matches!(*part, "" | ".")) {
        if part == ".." {
            bail!("{path:?} leads out of the volume");
        }
        let next = at.join(part);
        if fs::symlink_metadata(&next).is_err() {
            fs::create_dir(&next)?;
            // As writable as the volume itself.
            fs::set_permissions(&next, fs::metadata(&root)?.permissions())?;
        }
        at = next.canonicalize()?;
        if !at.starts_with(&root) {
            bail!("{path:?} leads out of the volume");
        }
    }
    Ok(at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_sub_path_that_names_a_variable_without_a_value_keeps_the_container_waiting() {
        let spec = json!({"volumeMounts": [{"name": "v", "mountPath": "/v", "subPathExpr": "$(EMPTY)/$(GONE)/$(NAME)"}]});
        let dir = std::env::temp_dir();
        let paths = Paths::from([("v".to_owned(), super::super::Volume::files(dir, false))]);
        let env = [("NAME".to_owned(), "foo".to_owned()), ("EMPTY".to_owned(), String::new())];
        assert_eq!(mounts(&spec, &paths, &env).unwrap_err().to_string(), "missing value for EMPTY, GONE");
    }

    #[test]
    fn a_sub_path_stays_inside_its_volume_whatever_links_lie_there() {
        let dir = std::env::temp_dir().join(format!("pilothouse-below-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("volume/in")).unwrap();
        std::os::unix::fs::symlink("/etc", dir.join("volume/out")).unwrap();
        std::os::unix::fs::symlink("in", dir.join("volume/link")).unwrap();
        let volume = dir.join("volume");
        assert!(below(&volume, "made/here").unwrap().is_dir());
        assert_eq!(below(&volume, "link").unwrap(), volume.canonicalize().unwrap().join("in"));
        assert!(below(&volume, "out").is_err() && below(&volume, "../x").is_err());
        assert!(below(&volume, "/in").is_err());
        fs::remove_dir_all(dir).unwrap();
    }
}
