//! What a pod's volumes take on the node's own disk.
use super::{dir_of, empty_dir};
use serde_json::Value;
use std::path::{Path, PathBuf};

/// The volumes whose files are the node's to keep: emptyDirs that are not in memory.
fn dirs(pod: &Value, pod_dir: &Path) -> Vec<PathBuf> {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let on_disk = volumes.filter(|v| v["emptyDir"].is_object() && v["emptyDir"]["medium"] != "Memory");
    on_disk.map(|volume| dir_of(pod_dir, volume["name"].as_str().unwrap_or_default())).collect()
}

async fn sum(dirs: Vec<PathBuf>, measure: fn(&Path) -> u64) -> u64 {
    // Reads all directories: not among what must not wait.
    let summing = tokio::task::spawn_blocking(move || dirs.iter().map(|dir| measure(dir)).sum());
    summing.await.unwrap_or(0)
}

pub async fn bytes_on_disk(pod: &Value, pod_dir: &Path) -> u64 {
    sum(dirs(pod, pod_dir), empty_dir::bytes_in).await
}

pub async fn inodes_on_disk(pod: &Value, pod_dir: &Path) -> u64 {
    sum(dirs(pod, pod_dir), inodes_in).await
}

fn inodes_in(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    let below = entries.map(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => inodes_in(&entry.path()),
        _ => 1,
    });
    1 + below.sum::<u64>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[tokio::test]
    async fn empty_dirs_on_disk_count_and_those_in_memory_do_not() {
        let dir = std::env::temp_dir().join(format!("pilothouse-on-disk-{}", std::process::id()));
        for volume in ["a", "b"] {
            let volume = dir_of(&dir, volume).join("sub");
            std::fs::create_dir_all(&volume).unwrap();
            std::fs::write(volume.join("file"), vec![1; 10_000]).unwrap();
        }
        let pod = json!({"spec": {"volumes": [{"name": "a", "emptyDir": {}},
            {"name": "b", "emptyDir": {"medium": "Memory"}}, {"name": "c", "configMap": {}}]}});
        let bytes = bytes_on_disk(&pod, &dir).await;
        assert!((10_000..20_000).contains(&bytes), "{bytes}");
        assert_eq!(inodes_on_disk(&pod, &dir).await, 3);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
