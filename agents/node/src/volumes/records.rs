//! What a pod's volumes need when they are taken down, kept beside them: the objects may be gone by then, and the agent
//! another process.
use super::{Left, dir_of};
use serde_json::{Value, json};
use std::fs;
use std::io::Result;
use std::path::{Path, PathBuf};

fn dir(pod_dir: &Path) -> PathBuf {
    pod_dir.join("records")
}

/// Whole or not at all.
pub fn write(pod_dir: &Path, name: &str, field: &str, source: &Value, volume: Option<&Value>) -> Result<()> {
    let file = dir(pod_dir).join(format!("{name}.json"));
    let text = json!({"field": field, "source": source, "volume": volume}).to_string();
    if fs::read_to_string(&file).is_ok_and(|found| found == text) {
        return Ok(());
    }
    fs::create_dir_all(dir(pod_dir))?;
    let next = dir(pod_dir).join(format!(".{name}"));
    fs::write(&next, text)?;
    fs::rename(next, file)
}

/// Each record: its file, the volume's name in the pod, the kind's field, and the rest.
pub fn read(pod_dir: &Path, data_dir: &Path) -> Vec<(PathBuf, String, String, Left)> {
    let files = fs::read_dir(dir(pod_dir)).into_iter().flatten().flatten().map(|entry| entry.path());
    let pod_uid = pod_dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    files
        .filter_map(|file| {
            let name = file.file_name()?.to_str()?.strip_suffix(".json")?.to_owned();
            let mut record: Value = serde_json::from_slice(&fs::read(&file).ok()?).ok()?;
            let field = record["field"].as_str()?.to_owned();
            let (source, volume) = (record["source"].take(), record["volume"].take());
            let (dir, data_dir) = (dir_of(pod_dir, &name), data_dir.to_owned());
            Some((file, name, field, Left { source, volume, dir, data_dir, pod_uid: pod_uid.clone() }))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_agent_reads_what_an_earlier_one_wrote() {
        let pod_dir = std::env::temp_dir().join(format!("pilothouse-records-{}", std::process::id()));
        let _ = fs::remove_dir_all(&pod_dir);
        assert_eq!(read(&pod_dir, Path::new("/data")).len(), 0);
        let volume = json!({"metadata": {"name": "pv"}});
        write(&pod_dir, "data", "nfs", &json!({"server": "old"}), None).unwrap();
        write(&pod_dir, "data", "nfs", &json!({"server": "s"}), Some(&volume)).unwrap();
        let [(_, name, field, left)] = &read(&pod_dir, Path::new("/data"))[..] else { panic!() };
        assert_eq!((name.as_str(), field.as_str()), ("data", "nfs"));
        assert_eq!((&left.source["server"], &left.volume), (&json!("s"), &volume));
        assert_eq!(left.dir, pod_dir.join("volumes/data"));
        fs::remove_dir_all(pod_dir).unwrap();
    }
}
