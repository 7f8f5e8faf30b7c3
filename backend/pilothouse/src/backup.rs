//! `pilothouse backup` and `pilothouse restore`: a cluster's state and keys in one file.
//!
//! The file is a gzipped tar: `manifest.json`, the keys of the data directory, then the database's tables in parts. It
//! holds the keys that open the secrets in it: keep it like a password. A node's own files, volumes among them, stay
//! where they are.
use crate::data_dir::{self, DataDir, write_private};
use crate::options::{BackupOptions, DatabaseOptions};
use crate::postgres::{self, Postgres};
use anyhow::{Context, Result, bail, ensure};
use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use pilothouse_store::archive::{self, Chunk, Exported};
use serde_json::{Value, json};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Component, Path, PathBuf};

/// Raised when an older release would misread the file.
const FORMAT: u64 = 1;
const MANIFEST: &str = "manifest.json";
const FILES: &str = "files/";
const TABLES: &str = "tables/";

/// Writes the file beside a running server, or starts the database of a stopped one for as long as it takes.
pub async fn backup(options: &BackupOptions) -> Result<()> {
    let root = data_dir::locate(options.database.data_dir.clone())?;
    let running = DataDir::is_used(&root);
    let dir = match running {
        true => DataDir::beside(root),
        false => DataDir::open(root)?,
    };
    let private = options.database.database_url.is_none();
    ensure!(
        !private || dir.postgres().join("PG_VERSION").exists(),
        "there is no cluster in {}",
        dir.root().display()
    );
    let database = match private && !running {
        true => Some(Postgres::start(&dir).await?),
        false => None,
    };
    let outcome = write_file(options, &dir).await;
    if let Some(database) = database {
        database.stop().await;
    }
    let Exported { revision, objects } = outcome?;
    println!("{objects} objects at revision {revision} are in {}", options.file.display());
    Ok(())
}

async fn write_file(options: &BackupOptions, dir: &DataDir) -> Result<Exported> {
    let shown = options.file.display();
    let draft = PathBuf::from(format!("{shown}.part"));
    let file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft);
    let file = file.with_context(|| format!("cannot write {shown}"))?;
    let written = fill(options, dir, file).await;
    let whole = written.and_then(|exported| {
        fs::rename(&draft, &options.file).with_context(|| format!("cannot write {shown}"))?;
        Ok(exported)
    });
    if whole.is_err() {
        let _ = fs::remove_file(&draft); // there may be none
    }
    whole
}

async fn fill(options: &BackupOptions, dir: &DataDir, file: File) -> Result<Exported> {
    let mut tar = tar::Builder::new(GzEncoder::new(file, Compression::fast()));
    for path in kept_files(dir)? {
        let name = format!("{FILES}{}", path.display());
        append(&mut tar, &name, &fs::read(dir.root().join(&path))?)?;
    }
    let mut number = 0;
    let take = |chunk: Chunk| {
        number += 1;
        append(&mut tar, &format!("{TABLES}{}/{number:06}", chunk.table), &chunk.rows)
    };
    let exported = archive::export(&database_url(&options.database, dir)?, take)
        .await
        .context("cannot read the database")?;
    let manifest = json!({
        "format": FORMAT, "version": env!("CARGO_PKG_VERSION"), "revision": exported.revision, "objects": exported.objects,
    });
    // Last, since only now all is known: a file that ends without it is not whole.
    append(&mut tar, MANIFEST, manifest.to_string().as_bytes())?;
    tar.into_inner()?.finish()?.sync_all()?;
    Ok(exported)
}

fn append(tar: &mut tar::Builder<impl io::Write>, name: &str, content: &[u8]) -> io::Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    tar.append_data(&mut header, name, content)
}

/// What of the data directory belongs to the cluster: keys, and the password that is in use.
fn kept_files(dir: &DataDir) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir.pki()).with_context(|| format!("cannot read {}", dir.pki().display()))? {
        let name = entry?.file_name();
        // The private database gets a password of its own where it is restored.
        if name != postgres::PASSWORD_FILE {
            files.push(Path::new("pki").join(name));
        }
    }
    for path in [dir.ca_certificate(), dir.admin_password()] {
        if let (true, Some(name)) = (path.exists(), path.file_name()) {
            files.push(name.into());
        }
    }
    files.sort();
    Ok(files)
}

fn database_url(options: &DatabaseOptions, dir: &DataDir) -> Result<String> {
    match &options.database_url {
        Some(url) => Ok(url.clone()),
        None => postgres::url(dir),
    }
}

/// Fills a new data directory, and a new database, from the file.
pub async fn restore(options: &BackupOptions) -> Result<()> {
    let shown = options.file.display();
    let manifest = manifest(&options.file).with_context(|| format!("{shown} is not a whole backup"))?;
    let format = manifest["format"].as_u64().unwrap_or(u64::MAX);
    ensure!(format <= FORMAT, "{shown} was written by a newer pilothouse ({})", manifest["version"]);
    let revision = manifest["revision"].as_u64().context("the manifest has no revision")?;

    let root = data_dir::locate(options.database.data_dir.clone())?;
    let dir = DataDir::open(root)?;
    if dir.pki().exists() || dir.postgres().exists() {
        bail!(
            "{} holds a cluster already: choose another directory with --data-dir, or move this one away",
            dir.root().display()
        );
    }
    restore_files(&options.file, &dir)?;
    let database = match options.database.database_url {
        Some(_) => None,
        None => Some(Postgres::start(&dir).await?),
    };
    let url = database_url(&options.database, &dir)?;
    let outcome = restore_tables(&options.file, &url, revision).await;
    if let Some(database) = database {
        database.stop().await;
    }
    if outcome.is_err() {
        // Half a cluster must not be taken for one; nothing of it was there before.
        for path in [dir.pki(), dir.postgres()] {
            let _ = fs::remove_dir_all(path);
        }
    }
    outcome?;
    println!(
        "{} objects are restored: start with `pilothouse up --data-dir {}`",
        manifest["objects"],
        dir.root().display()
    );
    Ok(())
}

fn open(file: &Path) -> Result<tar::Archive<GzDecoder<File>>> {
    let file = File::open(file).with_context(|| format!("cannot read {}", file.display()))?;
    Ok(tar::Archive::new(GzDecoder::new(file)))
}

fn manifest(file: &Path) -> Result<Value> {
    for entry in open(file)?.entries()? {
        let entry = entry?;
        if entry.path()? == Path::new(MANIFEST) {
            return Ok(serde_json::from_reader(entry)?);
        }
    }
    bail!("it has no manifest")
}

fn restore_files(file: &Path, dir: &DataDir) -> Result<()> {
    for entry in open(file)?.entries()? {
        let mut entry = entry?;
        let path = entry.path()?.into_owned();
        let Ok(path) = path.strip_prefix(FILES) else { continue };
        let inside = path.components().all(|part| matches!(part, Component::Normal(_)));
        ensure!(inside, "{} does not belong into a data directory", path.display());
        let mut content = Vec::new();
        entry.read_to_end(&mut content)?;
        write_private(&dir.root().join(path), &content)?;
    }
    Ok(())
}

async fn restore_tables(file: &Path, url: &str, revision: u64) -> Result<()> {
    let mut archive = open(file)?;
    let chunks = archive.entries()?.filter_map(|entry| chunk(entry).transpose());
    archive::import(url, revision, chunks).await.context("cannot fill the database")
}

/// None: the entry is no part of a table.
fn chunk(entry: io::Result<tar::Entry<'_, impl Read>>) -> io::Result<Option<Chunk>> {
    let mut entry = entry?;
    let path = entry.path()?.into_owned();
    let Ok(path) = path.strip_prefix(TABLES) else { return Ok(None) };
    let table = path.parent().map(|table| table.to_string_lossy().into_owned()).unwrap_or_default();
    let mut rows = Vec::new();
    entry.read_to_end(&mut rows)?;
    Ok(Some(Chunk { table, rows: rows.into() }))
}
