//! What is mounted on the node: read from the kernel, so that an agent that starts again knows it; mounting and unmounting
//! within bounds, for a server far away may not answer.
use anyhow::{Context, Result, bail};
use nix::mount::{MntFlags, MsFlags, umount2};
use parking_lot::Mutex;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// What a mount may take; the kernel's own patience with an NFS server is of this order.
const MOUNT_TIMEOUT: Duration = Duration::from_secs(120);
/// What an unmount may take to write back what is in memory, before the mount is only taken out of sight.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(30);
/// After a program has ended.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// Of what it says.
const LONGEST_WORDS: usize = 8 << 10;
const PROGRAM_PLACES: &[&str] =
    &["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Every mount point at or below a directory, deepest first. It reads the kernel's list and asks no file system, for one
/// whose server is gone does not answer.
pub fn below(dir: &Path) -> Vec<PathBuf> {
    let table = fs::read("/proc/self/mountinfo").unwrap_or_default();
    // The list has no links in it.
    let dir = resolved(dir);
    let mut found: Vec<PathBuf> = points(&table).filter(|point| point.starts_with(&dir)).collect();
    found.sort();
    found.reverse();
    found
}

pub fn is_mounted(path: &Path) -> bool {
    let path = resolved(path);
    below(&path).contains(&path)
}

/// Sees to it that what is mounted below a directory by somebody who has it from here is mounted here too: it becomes a shared
/// mount, if what holds it is none.
pub fn share(dir: &Path) -> Result<()> {
    fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    let dir = dir.canonicalize()?;
    let table = fs::read("/proc/self/mountinfo")?;
    if is_shared(&table, &dir) {
        return Ok(());
    }
    let none: Option<&str> = None;
    if !is_mounted(&dir) {
        nix::mount::mount(Some(&dir), &dir, none, MsFlags::MS_BIND | MsFlags::MS_REC, none)
            .with_context(|| format!("cannot bind {}", dir.display()))?;
    }
    nix::mount::mount(none, &dir, none, MsFlags::MS_SHARED | MsFlags::MS_REC, none)
        .with_context(|| format!("cannot share what is mounted at {}", dir.display()))
}

/// Whether the mount that holds a path has a peer group: of several at one place the last counts.
fn is_shared(table: &[u8], path: &Path) -> bool {
    let mut holder: (usize, bool) = (0, false);
    for line in table.split(|byte| *byte == b'\n') {
        let mut fields = line.split(|byte| *byte == b' ').skip(4);
        let Some(point) = fields.next().map(unescape).filter(|point| path.starts_with(point)) else {
            continue;
        };
        let length = point.components().count();
        if length >= holder.0 {
            let mut options = fields.skip(1).take_while(|field| *field != b"-");
            holder = (length, options.any(|option| option.starts_with(b"shared:")));
        }
    }
    holder.1
}

/// The path without links in its parents. The last part is not looked at: it may be a mount that hangs.
fn resolved(path: &Path) -> PathBuf {
    match (path.parent().and_then(|parent| parent.canonicalize().ok()), path.file_name()) {
        (Some(parent), Some(name)) => parent.join(name),
        _ => path.to_owned(),
    }
}

/// The fifth field of each line of `proc_pid_mountinfo(5)`.
fn points(table: &[u8]) -> impl Iterator<Item = PathBuf> {
    let lines = table.split(|byte| *byte == b'\n');
    lines.filter_map(|line| line.split(|byte| *byte == b' ').nth(4)).map(unescape)
}

/// Blanks, tabs, line ends and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let digits =
            after.get(..3).filter(|digits| byte == b'\\' && digits.iter().all(|d| (b'0'..b'8').contains(d)));
        match digits {
            Some(digits) => {
                bytes.push(digits.iter().fold(0_u8, |value, d| value.wrapping_mul(8).wrapping_add(d - b'0')));
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

/// A program by its name, where administrators' programs lie too: the agent's own PATH may be short.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let all = std::env::split_paths(&path).chain(PROGRAM_PLACES.iter().map(PathBuf::from));
    all.map(|place| place.join(name)).find(|program| program.is_file())
}

/// Runs a program that mounts something and ends. Its own words are the error.
pub async fn run(program: &str, arguments: &[String], environment: &[(&str, String)]) -> Result<()> {
    let mut command = Command::new(program);
    command.args(arguments).envs(environment.iter().map(|(key, value)| (*key, value)));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let told = |what: String, output: &str| {
        let arguments = arguments.join(" ");
        format!(
            "mount failed: {what}\nMounting command: {program}\nMounting arguments: {arguments}\nOutput: {output}"
        )
    };
    let mut child = command.spawn().with_context(|| format!("cannot run {program}"))?;
    let words = Arc::new(Mutex::new(Vec::new()));
    let (out, err) = (child.stdout.take(), child.stderr.take());
    let reading = {
        let words = words.clone();
        async move { tokio::join!(collect(out, &words), collect(err, &words)) }
    };
    let mut reading = tokio::spawn(reading);
    let ended = tokio::time::timeout(MOUNT_TIMEOUT, child.wait()).await;
    // A program that stays in the background may keep the pipe open.
    if tokio::time::timeout(LAST_WORDS, &mut reading).await.is_err() {
        reading.abort();
    }
    let words = String::from_utf8_lossy(&words.lock()).trim().to_owned();
    match ended {
        Ok(Ok(status)) if status.success() => Ok(()),
        Ok(status) => bail!(told(status?.to_string(), &words)),
        Err(_) => bail!(told(format!("no answer in {} s", MOUNT_TIMEOUT.as_secs()), &words)),
    }
}

async fn collect(pipe: Option<impl AsyncRead + Unpin>, words: &Mutex<Vec<u8>>) {
    let Some(mut pipe) = pipe else { return };
    let mut part = [0; 1024];
    while let Ok(count @ 1..) = pipe.read(&mut part).await {
        let mut words = words.lock();
        if words.len() < LONGEST_WORDS {
            words.extend_from_slice(&part[..count]);
        }
    }
}

/// The same for a program that stays, and serves the mount: apart from the agent, which may end before it.
pub async fn run_daemon(program: &str, arguments: &[String], environment: &[(&str, String)]) -> Result<()> {
    let scope = self::program("systemd-run").filter(|_| Path::new("/run/systemd/system").exists());
    let Some(scope) = scope else { return run(program, arguments, environment).await };
    let apart = ["--scope", "--quiet", "--collect", "--", program].map(str::to_owned);
    let arguments: Vec<String> = apart.into_iter().chain(arguments.iter().cloned()).collect();
    run(&scope.to_string_lossy(), &arguments, environment).await
}

/// `mount(8)`, which knows every file system's helper.
pub async fn mount(fs_type: &str, source: &str, target: &Path, options: &[String]) -> Result<()> {
    run("mount", &mount_arguments(fs_type, source, target, options), &[]).await
}

pub fn mount_arguments(fs_type: &str, source: &str, target: &Path, options: &[String]) -> Vec<String> {
    let mut arguments = vec!["-t".to_owned(), fs_type.to_owned()];
    if !options.is_empty() {
        arguments.extend(["-o".to_owned(), options.join(",")]);
    }
    arguments.extend([source.to_owned(), target.to_string_lossy().into_owned()]);
    arguments
}

/// Takes away everything that is mounted at or below a directory. What does not let go in time is taken out of sight, and
/// goes when its last user does.
pub async fn unmount_below(dir: &Path) -> Result<()> {
    for point in below(dir) {
        let at = point.clone();
        let asked = tokio::task::spawn_blocking(move || umount2(&at, MntFlags::UMOUNT_NOFOLLOW));
        match tokio::time::timeout(UNMOUNT_TIMEOUT, asked).await {
            Ok(Ok(Ok(()))) => continue,
            Ok(Ok(Err(nix::errno::Errno::EINVAL))) => continue, // gone meanwhile
            Ok(Ok(Err(error))) => tracing::debug!(point = %point.display(), %error, "a mount is held"),
            _ => {
                tracing::warn!(point = %point.display(), "a mount does not let go; it is taken out of sight")
            }
        }
        let at = point.clone();
        let flags = MntFlags::MNT_DETACH | MntFlags::UMOUNT_NOFOLLOW;
        let asked = tokio::task::spawn_blocking(move || umount2(&at, flags));
        let ended = tokio::time::timeout(UNMOUNT_TIMEOUT, asked).await;
        ended.context("no answer")??.with_context(|| format!("cannot unmount {}", point.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_list_is_read_with_its_escapes() {
        let table = b"22 1 0:21 / /proc rw - proc proc rw\n30 1 0:40 / /var/my\\040pods/a\\134b rw,nosuid shared:5 - nfs s:/x rw\n";
        let all: Vec<PathBuf> = points(table).collect();
        assert_eq!(all, [PathBuf::from("/proc"), PathBuf::from("/var/my pods/a\\b")]);
        assert!(is_mounted(Path::new("/proc")) && !is_mounted(Path::new("/proc/self")));
    }

    #[test]
    fn the_innermost_mount_says_whether_it_is_shared() {
        let table = b"22 1 0:21 / / rw shared:1 - ext4 / rw\n30 22 0:40 / /var/lib rw,nosuid - tmpfs t rw\n31 30 0:41 / /var/lib/k rw master:7 shared:5 - tmpfs t rw\n";
        let shared = |path: &str| is_shared(table, Path::new(path));
        assert!(shared("/etc") && !shared("/var/lib/x") && shared("/var/lib/k/plugins"));
    }

    #[tokio::test]
    async fn a_mount_that_fails_says_what_was_tried_and_what_was_answered() {
        let error = run("ls", &["/no/such/place".to_owned()], &[]).await.unwrap_err().to_string();
        assert!(error.starts_with("mount failed: exit status: 2\nMounting command: ls\nMounting arguments: /no/such/place\nOutput: "), "{error}");
        assert!(error.contains("No such file"), "{error}");
    }
}
