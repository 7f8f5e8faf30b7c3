//! `pilothouse backup` and `restore`: a data directory as one file.
use crate::options::{BackupOptions, RestoreOptions};
use anyhow::{Result, bail};

pub async fn backup(_options: BackupOptions) -> Result<()> {
    bail!("not there yet")
}

pub async fn restore(_options: RestoreOptions) -> Result<()> {
    bail!("not there yet")
}
