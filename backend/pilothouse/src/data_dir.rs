//! The data directory: where each file lies, which version wrote it, and that only one program uses it.
use anyhow::{Context, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Raised when a release lays files out so that an older one would misread them.
const LAYOUT_VERSION: u32 = 1;

pub struct DataDir {
    root: PathBuf,
    /// Held as long as the program runs; the kernel lets go of it however the program ends. None beside another program.
    _lock: Option<Flock<File>>,
}

/// `--data-dir`, else `$XDG_DATA_HOME/pilothouse`, else `~/.local/share/pilothouse`.
pub fn locate(chosen: Option<PathBuf>) -> Result<PathBuf> {
    let path = match chosen {
        Some(path) => path,
        None => match (std::env::var_os("XDG_DATA_HOME"), std::env::var_os("HOME")) {
            (Some(data), _) if !data.is_empty() => Path::new(&data).join("pilothouse"),
            (_, Some(home)) => Path::new(&home).join(".local/share/pilothouse"),
            _ => bail!("neither --data-dir nor $XDG_DATA_HOME nor $HOME is set: give --data-dir DIR"),
        },
    };
    std::path::absolute(&path).with_context(|| format!("data directory {}", path.display()))
}

impl DataDir {
    /// Makes the directory where it is missing and takes its lock.
    pub fn open(root: PathBuf) -> Result<Self> {
        let shown = root.display().to_string();
        fs::create_dir_all(&root).with_context(|| format!("cannot make the data directory {shown}"))?;
        fs::set_permissions(&root, Permissions::from_mode(0o700))
            .with_context(|| format!("cannot restrict the data directory {shown} to its owner"))?;
        let lock = lock(&root)?;
        check_version(&root)?;
        Ok(Self { root, _lock: Some(lock) })
    }

    /// Whether a program has the directory's lock.
    pub fn is_used(root: &Path) -> bool {
        let file = File::open(root.join("lock"));
        file.is_ok_and(|file| Flock::lock(file, FlockArg::LockSharedNonblock).is_err())
    }

    /// The directory that another program is using, to read what is in it.
    pub fn beside(root: PathBuf) -> Self {
        Self { root, _lock: None }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    pub fn admin_password(&self) -> PathBuf {
        self.root.join("admin-password")
    }

    /// The CA's certificate, to hand to clients.
    pub fn ca_certificate(&self) -> PathBuf {
        self.root.join("ca.crt")
    }

    /// Private keys: the CA's, the server's, the one that signs tokens, the ones that encrypt secrets.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    pub fn postgres(&self) -> PathBuf {
        self.root.join("postgres")
    }

    pub fn node(&self) -> PathBuf {
        self.root.join("node")
    }
}

fn lock(root: &Path) -> Result<Flock<File>> {
    let path = root.join("lock");
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(mut held) => {
            held.set_len(0)?;
            held.rewind()?;
            writeln!(held, "{}", std::process::id())?;
            Ok(held)
        }
        Err((mut file, _)) => {
            let mut holder = String::new();
            file.read_to_string(&mut holder)?;
            bail!(
                "another pilothouse (process {}) is using {}: stop it, or choose another directory with --data-dir",
                holder.trim(),
                root.display()
            )
        }
    }
}

fn check_version(root: &Path) -> Result<()> {
    let path = root.join("version");
    match fs::read_to_string(&path) {
        Ok(text) => {
            let found: u32 = text
                .trim()
                .parse()
                .with_context(|| format!("{} does not hold a version number", path.display()))?;
            if found > LAYOUT_VERSION {
                bail!(
                    "{} was written by a newer pilothouse (layout {found}, this one knows {LAYOUT_VERSION}): \
                     install that version, or choose another directory with --data-dir",
                    root.display()
                );
            }
            Ok(())
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            write_private(&path, format!("{LAYOUT_VERSION}\n").as_bytes())
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

/// Writes a file that only its owner can read, whole or not at all.
pub fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let shown = path.display();
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    let draft = path.with_extension("new");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&draft)
        .with_context(|| format!("cannot write {shown}"))?;
    file.write_all(content)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {shown}"))?;
    fs::rename(&draft, path).with_context(|| format!("cannot write {shown}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("pilothouse-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_second_program_is_told_who_holds_the_directory() {
        let path = empty("lock");
        let held = DataDir::open(path.clone()).unwrap();
        let refused = DataDir::open(path.clone()).err().unwrap().to_string();
        assert!(refused.contains(&format!("process {}", std::process::id())), "{refused}");
        drop(held);
        DataDir::open(path.clone()).unwrap();
        fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_directory_of_a_newer_version_is_left_alone() {
        let path = empty("version");
        drop(DataDir::open(path.clone()).unwrap());
        fs::write(path.join("version"), "99\n").unwrap();
        let refused = DataDir::open(path.clone()).err().unwrap().to_string();
        assert!(refused.contains("newer pilothouse"), "{refused}");
        assert_eq!(fs::read_to_string(path.join("version")).unwrap(), "99\n");
        fs::remove_dir_all(path).unwrap();
    }
}
