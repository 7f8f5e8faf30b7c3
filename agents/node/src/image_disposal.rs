//! Which images go when the disk fills. Pure.
//! After <https://kubernetes.io/docs/concepts/architecture/garbage-collection/#container-image-lifecycle>.
//!
//! The runtime may be shared with people: only images that this node itself pulled go, since it can pull them again.
use pilothouse_api::jiff::Timestamp;
use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::Path;

const FILE: &str = "pulled-images.json";

/// Kubelet's `imageGCHighThresholdPercent` and its like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    pub high_percent: u64,
    pub low_percent: u64,
    pub least_age_seconds: i64,
}

impl Default for Rules {
    fn default() -> Self {
        Self { high_percent: 85, low_percent: 80, least_age_seconds: 120 }
    }
}

impl Rules {
    /// How much should go; None: the disk is not that full.
    pub fn excess(&self, capacity: u64, available: u64) -> Option<u64> {
        let used = capacity.saturating_sub(available);
        (capacity > 0 && used * 100 >= capacity * self.high_percent)
            .then(|| used.saturating_sub(capacity / 100 * self.low_percent))
    }
}

/// One image of the runtime.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Image {
    pub id: String,
    /// With tags and by digests.
    pub names: Vec<String>,
    pub bytes: u64,
}

/// As the runtime lists a name: completed, and without the registry that is meant where none is named.
fn canonical(name: &str) -> String {
    let short = name.strip_prefix("docker.io/").unwrap_or(name);
    let short = short.strip_prefix("library/").unwrap_or(short);
    let last = short.rsplit('/').next().unwrap_or(short);
    if last.contains(':') || last.contains('@') { short.to_owned() } else { format!("{short}:latest") }
}

/// Which images came by this node, and when each was last needed.
#[derive(Debug, Default)]
pub struct Ledger {
    pulled: BTreeSet<String>,
    first_seen: HashMap<String, Timestamp>,
    last_used: HashMap<String, Timestamp>,
}

impl Ledger {
    pub fn load(data_dir: &Path) -> Self {
        let bytes = std::fs::read(data_dir.join(FILE)).unwrap_or_default();
        Self { pulled: serde_json::from_slice(&bytes).unwrap_or_default(), ..Self::default() }
    }

    /// An image was pulled by this name. Written down before it may be taken for somebody else's.
    pub fn pulled(&mut self, name: &str, data_dir: &Path) -> std::io::Result<()> {
        match self.pulled.insert(canonical(name)) {
            true => self.save(data_dir),
            false => Ok(()),
        }
    }

    fn save(&self, data_dir: &Path) -> std::io::Result<()> {
        let fresh = data_dir.join("pulled-images.new");
        std::fs::write(&fresh, serde_json::to_vec(&self.pulled)?)?;
        std::fs::rename(fresh, data_dir.join(FILE))
    }

    /// `in_use` are the ids of images that any container has, whoever it belongs to.
    pub fn observe(&mut self, images: &[Image], in_use: &HashSet<String>, now: Timestamp) {
        let known: HashSet<&str> = images.iter().map(|image| image.id.as_str()).collect();
        self.first_seen.retain(|id, _| known.contains(id.as_str()));
        self.last_used.retain(|id, _| known.contains(id.as_str()));
        for image in images {
            self.first_seen.entry(image.id.clone()).or_insert(now);
            if in_use.contains(&image.id) {
                self.last_used.insert(image.id.clone(), now);
            }
        }
    }

    /// The images to remove until `bytes` are free, those first that were not needed for longest.
    pub fn victims<'a>(
        &self,
        images: &'a [Image],
        in_use: &HashSet<String>,
        rules: &Rules,
        bytes: u64,
        now: Timestamp,
    ) -> Vec<&'a Image> {
        let age = |id: &String| self.first_seen.get(id).map_or(0, |seen| now.as_second() - seen.as_second());
        let mut candidates: Vec<&Image> = images
            .iter()
            .filter(|image| !in_use.contains(&image.id) && age(&image.id) >= rules.least_age_seconds)
            .filter(|image| image.names.iter().any(|name| self.pulled.contains(&canonical(name))))
            .collect();
        candidates.sort_by_key(|image| (self.last_used.get(&image.id), self.first_seen.get(&image.id)));
        let mut freed = 0;
        let enough = |image: &&Image| {
            let goes = freed < bytes;
            freed += image.bytes;
            goes
        };
        candidates.into_iter().take_while(enough).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn image(id: &str, bytes: u64) -> Image {
        Image { id: id.into(), names: vec![format!("example.com/{id}:1")], bytes }
    }

    #[test]
    fn a_disk_that_is_filled_beyond_the_high_mark_is_freed_to_the_low_one() {
        let rules = Rules::default();
        assert_eq!(rules.excess(1000, 160), None);
        assert_eq!(rules.excess(1000, 150), Some(50));
        assert_eq!(rules.excess(0, 0), None, "not to know is no reason");
    }

    #[test]
    fn images_go_that_were_not_needed_for_longest_and_none_in_use_or_of_others() {
        let dir = std::env::temp_dir().join(format!("pilothouse-images-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let mut ledger = Ledger::default();
        for id in ["old", "used", "lately", "fresh"] {
            ledger.pulled(&format!("example.com/{id}:1"), &dir).unwrap();
        }
        let mut images = vec![image("old", 10), image("used", 10), image("lately", 10), image("foreign", 10)];
        let used = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<HashSet<_>>();
        ledger.observe(&images, &used(&["used", "lately"]), at(0));
        images.push(image("fresh", 10));
        ledger.observe(&images, &used(&["used"]), at(100));
        let names = |bytes: u64| -> Vec<&str> {
            let all = ledger.victims(&images, &used(&["used"]), &Rules::default(), bytes, at(150));
            all.iter().map(|image| image.id.as_str()).collect()
        };
        assert_eq!(names(5), ["old"]);
        assert_eq!(names(1000), ["old", "lately"], "the one in use, a new one and another's stay");
        assert_eq!(Ledger::load(&dir).pulled, ledger.pulled);
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn names_are_compared_as_they_are_meant() {
        for (name, expected) in [
            ("nginx", "nginx:latest"),
            ("docker.io/library/nginx:1", "nginx:1"),
            ("docker.io/team/app", "team/app:latest"),
            ("localhost:5000/x", "localhost:5000/x:latest"),
            ("a@sha256:0", "a@sha256:0"),
        ] {
            assert_eq!(canonical(name), expected);
        }
    }
}
