//! Volumes whose files come from objects: ConfigMaps, Secrets, fields of the pod, tokens. They are written whole and swapped
//! in at once, and follow their objects.
use super::ownership::{self, Owner};
use super::{Kind, Volume, Wanted};
use crate::environment::{Sources, field, resource_field};
use crate::tokens;
use anyhow::{Result, bail};
use base64::Engine;
use futures::future::{BoxFuture, FutureExt, ready};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

const DEFAULT_MODE: i64 = 0o644;

pub struct Projected;

impl Kind for Projected {
    fn fields(&self) -> &'static [&'static str] {
        &["configMap", "secret", "downwardAPI", "projected"]
    }

    fn prepare<'a>(&'a self, wanted: &'a Wanted<'a>) -> BoxFuture<'a, Result<Volume>> {
        let made = files(wanted.pod, wanted.spec, wanted.sources)
            .and_then(|files| write(wanted.dir, &files, Owner::of(wanted.pod)));
        ready(made.map(|()| Volume::files(wanted.dir.to_owned(), true))).boxed()
    }
}

/// The files of a volume by path: contents and permission bits.
pub type Files = BTreeMap<String, (Vec<u8>, u32)>;

fn files(pod: &Value, volume: &Value, sources: &Sources<'_>) -> Result<Files> {
    let mut files = Files::new();
    if volume["configMap"].is_object() {
        let source = &volume["configMap"];
        add_object(&mut files, "configmaps", source["name"].as_str(), source, mode_of(source), sources)?;
    } else if volume["secret"].is_object() {
        let source = &volume["secret"];
        add_object(&mut files, "secrets", source["secretName"].as_str(), source, mode_of(source), sources)?;
    } else if volume["downwardAPI"].is_object() {
        add_fields(&mut files, pod, &volume["downwardAPI"], mode_of(&volume["downwardAPI"]), sources)?;
    } else if volume["projected"].is_object() {
        let mode = mode_of(&volume["projected"]);
        for source in volume["projected"]["sources"].as_array().into_iter().flatten() {
            let (map, secret) = (&source["configMap"], &source["secret"]);
            if map.is_object() {
                add_object(&mut files, "configmaps", map["name"].as_str(), map, mode, sources)?;
            } else if secret.is_object() {
                add_object(&mut files, "secrets", secret["name"].as_str(), secret, mode, sources)?;
            } else if source["downwardAPI"].is_object() {
                add_fields(&mut files, pod, &source["downwardAPI"], mode, sources)?;
            } else if source["serviceAccountToken"].is_object() {
                add_token(&mut files, pod, &source["serviceAccountToken"], mode, sources)?;
            } else {
                let kinds: Vec<&str> =
                    source.as_object().into_iter().flatten().map(|(k, _)| k.as_str()).collect();
                bail!("this kind of source is not supported yet: {}", kinds.join(", "));
            }
        }
    }
    Ok(files)
}

fn mode_of(source: &Value) -> i64 {
    source["defaultMode"].as_i64().unwrap_or(DEFAULT_MODE)
}

fn bits(mode: i64) -> u32 {
    u32::try_from(mode & 0o777).unwrap_or(0o644)
}

fn add_object(
    files: &mut Files,
    resource: &str,
    name: Option<&str>,
    source: &Value,
    mode: i64,
    sources: &Sources<'_>,
) -> Result<()> {
    let name = name.unwrap_or_default();
    let kind = resource.trim_end_matches('s');
    let Some(object) = sources.find(resource, name) else {
        if source["optional"] == true {
            return Ok(());
        }
        bail!("{kind} {name:?} not found");
    };
    let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
    let mut data: BTreeMap<&str, Vec<u8>> = BTreeMap::new();
    for (key, value) in object["data"].as_object().into_iter().flatten() {
        let text = value.as_str().unwrap_or_default();
        data.insert(key, if resource == "secrets" { decode(text) } else { text.as_bytes().to_vec() });
    }
    for (key, value) in object["binaryData"].as_object().into_iter().flatten() {
        data.insert(key, decode(value.as_str().unwrap_or_default()));
    }
    let Some(items) = source["items"].as_array() else {
        files.extend(data.into_iter().map(|(key, bytes)| (key.to_owned(), (bytes, bits(mode)))));
        return Ok(());
    };
    for item in items {
        let key = item["key"].as_str().unwrap_or_default();
        match data.get(key) {
            Some(bytes) => {
                let path = safe_path(item["path"].as_str().unwrap_or(key))?;
                files.insert(path, (bytes.clone(), bits(item["mode"].as_i64().unwrap_or(mode))));
            }
            None if source["optional"] == true => {}
            None => {
                let kind = if kind == "configmap" { "config" } else { kind };
                bail!("references non-existent {kind} key: {key}");
            }
        }
    }
    Ok(())
}

fn add_fields(
    files: &mut Files,
    pod: &Value,
    source: &Value,
    mode: i64,
    sources: &Sources<'_>,
) -> Result<()> {
    for item in source["items"].as_array().into_iter().flatten() {
        let value = match item["fieldRef"]["fieldPath"].as_str() {
            Some(path) => field(pod, path, sources),
            None => resource_field(pod, &Value::Null, &item["resourceFieldRef"], &sources.node),
        };
        let path = safe_path(item["path"].as_str().unwrap_or_default())?;
        files.insert(
            path,
            (value.unwrap_or_default().into_bytes(), bits(item["mode"].as_i64().unwrap_or(mode))),
        );
    }
    Ok(())
}

fn add_token(files: &mut Files, pod: &Value, source: &Value, mode: i64, sources: &Sources<'_>) -> Result<()> {
    let (audience, seconds) = tokens::asked(source);
    let Some((token, _)) = (sources.token)(&audience, seconds) else { bail!("the token has not come yet") };
    // Nobody else may read it, where it is known who will.
    let private = ownership::fs_group(pod).is_some() || ownership::only_user(pod).is_some();
    let mode = if private { 0o600 } else { mode };
    files.insert(safe_path(source["path"].as_str().unwrap_or_default())?, (token.into_bytes(), bits(mode)));
    Ok(())
}

/// A path that stays inside its volume.
fn safe_path(path: &str) -> Result<String> {
    let inside = !path.is_empty()
        && !path.starts_with('/')
        && path.split('/').all(|part| !matches!(part, ".." | "" | "."));
    if inside { Ok(path.to_owned()) } else { bail!("path {path:?} leads out of the volume") }
}

/// Kubernetes' atomic writer: files live in a directory of their own that `..data` points to; one rename of that link
/// changes them all at once.
fn write(dir: &Path, files: &Files, owner: Owner) -> Result<()> {
    fs::create_dir_all(dir)?;
    let current = dir.join("..data");
    if same(&current, files) {
        return Ok(());
    }
    let stamp =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let fresh = format!("..{stamp:x}");
    for (path, (bytes, mode)) in files {
        let file = dir.join(&fresh).join(path);
        if let Some(parent) = file.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&file, bytes)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(*mode))?;
    }
    fs::create_dir_all(dir.join(&fresh))?;
    owner.give(&dir.join(&fresh), false)?;
    let old = fs::read_link(&current).ok();
    let next = dir.join("..data_tmp");
    let _ = fs::remove_file(&next);
    symlink(&fresh, &next)?;
    fs::rename(&next, &current)?;
    let tops: std::collections::BTreeSet<&str> =
        files.keys().filter_map(|path| path.split('/').next()).collect();
    for top in &tops {
        let link = dir.join(top);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new("..data").join(top), &link)?;
        }
    }
    for entry in fs::read_dir(dir)?.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if !name.starts_with("..") && !tops.contains(name.as_str()) {
            fs::remove_file(entry.path())?;
        }
    }
    if let Some(old) = old.filter(|old| old.as_os_str() != fresh.as_str()) {
        let _ = fs::remove_dir_all(dir.join(old));
    }
    Ok(())
}

fn same(current: &Path, files: &Files) -> bool {
    fn count(dir: &Path) -> usize {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        entries.map(|e| if e.path().is_dir() { count(&e.path()) } else { 1 }).sum()
    }
    current.exists()
        && count(current) == files.len()
        && files
            .iter()
            .all(|(path, (bytes, _))| fs::read(current.join(path)).is_ok_and(|found| found == *bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_change_all_at_once_and_those_gone_disappear() {
        let dir = std::env::temp_dir().join(format!("pilothouse-volume-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        let files = |pairs: &[(&str, &str)]| -> Files {
            pairs.iter().map(|(p, c)| ((*p).to_owned(), (c.as_bytes().to_vec(), 0o600))).collect()
        };
        write(&dir, &files(&[("a", "1"), ("sub/b", "2")]), Owner::default()).unwrap();
        assert_eq!(fs::read_to_string(dir.join("sub/b")).unwrap(), "2");
        let before = fs::read_link(dir.join("..data")).unwrap();
        write(&dir, &files(&[("a", "1"), ("sub/b", "2")]), Owner::default()).unwrap();
        assert_eq!(fs::read_link(dir.join("..data")).unwrap(), before, "nothing changed");
        write(&dir, &files(&[("a", "3")]), Owner::default()).unwrap();
        assert_eq!(fs::read_to_string(dir.join("a")).unwrap(), "3");
        assert!(!dir.join("sub").exists() && !dir.join(before).exists());
        fs::remove_dir_all(dir).unwrap();
        assert!(safe_path("../x").is_err() && safe_path("/x").is_err() && safe_path("a/b").is_ok());
    }
}
