//! S3: a bucket, or a directory of one, mounted by FUSE through `s3fs` or `rclone`, whichever the node has.
mod client;

use super::{Content, Kind, Volume, Wanted, mounts, ownership};
use anyhow::{Context, Result, bail};
use base64::Engine;
use client::Client;
use futures::future::{BoxFuture, FutureExt};
use pilothouse_api::storage::S3_DRIVER;
use serde_json::Value;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// What a mounted bucket may take to say that it is there.
const ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

pub struct S3;

impl Kind for S3 {
    fn fields(&self) -> &'static [&'static str] {
        &["csi"]
    }

    fn takes(&self, source: &Value) -> bool {
        source["driver"] == S3_DRIVER
    }

    fn is_recorded(&self) -> bool {
        true
    }

    fn prepare<'a>(&'a self, wanted: &'a Wanted<'a>) -> BoxFuture<'a, Result<Volume>> {
        async move {
            if mounts::is_mounted(wanted.dir) && !is_alive(wanted.dir).await {
                mounts::unmount_below(wanted.dir).await?; // its program died
            }
            if !mounts::is_mounted(wanted.dir) {
                fs::create_dir_all(wanted.dir)?;
                let bucket = Bucket::new(wanted.source, wanted.sources.namespace, &*wanted.sources.any)?;
                mount(&bucket, wanted).await?;
            }
            Ok(Volume::files(wanted.dir.to_owned(), wanted.read_only))
        }
        .boxed()
    }

    fn create<'a>(&'a self, content: &'a Content<'a>) -> BoxFuture<'a, Result<()>> {
        async move {
            let bucket = Bucket::new(content.source, "", content.find)?;
            let client = Client::new(&bucket)?;
            client.make_bucket().await?;
            if !bucket.prefix.is_empty() {
                client.put(&format!("{}/", bucket.prefix)).await?;
            }
            Ok(())
        }
        .boxed()
    }

    fn remove<'a>(&'a self, content: &'a Content<'a>) -> BoxFuture<'a, Result<()>> {
        async move {
            let bucket = Bucket::new(content.source, "", content.find)?;
            let name = content.volume["metadata"]["name"].as_str().unwrap_or_default();
            let client = Client::new(&bucket)?;
            // Only what bears the volume's name was made for it.
            match () {
                () if bucket.prefix == name => client.empty(&format!("{name}/")).await,
                () if bucket.prefix.is_empty() && bucket.name == name => {
                    client.empty("").await?;
                    client.remove_bucket().await
                }
                () => bail!(
                    "neither bucket {:?} nor directory {:?} is the volume's own",
                    bucket.name,
                    bucket.prefix
                ),
            }
        }
        .boxed()
    }
}

/// Where a bucket is, and whose it is.
#[derive(Clone)]
struct Bucket {
    /// None: Amazon's own.
    endpoint: Option<String>,
    region: String,
    name: String,
    prefix: String,
    /// `s3fs` or `rclone`, where the class says which.
    mounter: Option<String>,
    key: String,
    secret: String,
    token: Option<String>,
}

impl Bucket {
    /// From a `csi` source; its Secret has the keys of one of the usual drivers.
    fn new(source: &Value, namespace: &str, find: &super::Find<'_>) -> Result<Self> {
        let attribute = |name: &str| {
            source["volumeAttributes"][name].as_str().filter(|value| !value.is_empty()).map(str::to_owned)
        };
        let handle = source["volumeHandle"].as_str().unwrap_or_default();
        let (handle_bucket, handle_prefix) = handle.split_once('/').unwrap_or((handle, ""));
        let reference = &source["nodePublishSecretRef"];
        let name =
            reference["name"].as_str().context("nodePublishSecretRef names no secret with the keys")?;
        let namespace = reference["namespace"].as_str().unwrap_or(namespace);
        let secret = find("secrets", namespace, name)
            .with_context(|| format!("secret {namespace}/{name} not found"))?;
        let value = |names: &[&str]| names.iter().find_map(|name| decoded(&secret["data"][name]));
        let missing = |what: &str| format!("secret {namespace}/{name} has no {what}");
        Ok(Self {
            endpoint: attribute("endpoint"),
            region: attribute("region").unwrap_or_else(|| "us-east-1".into()),
            name: attribute("bucket").unwrap_or_else(|| handle_bucket.to_owned()),
            prefix: attribute("prefix").unwrap_or_else(|| handle_prefix.to_owned()),
            mounter: attribute("mounter"),
            key: value(&["accessKeyID", "AWS_ACCESS_KEY_ID", "access_key_id", "key_id"])
                .with_context(|| missing("accessKeyID"))?,
            secret: value(&["secretAccessKey", "AWS_SECRET_ACCESS_KEY", "secret_access_key", "access_key"])
                .with_context(|| missing("secretAccessKey"))?,
            token: value(&["sessionToken", "AWS_SESSION_TOKEN"]),
        })
    }

    fn url(&self) -> String {
        self.endpoint.clone().unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", self.region))
    }
}

fn decoded(value: &Value) -> Option<String> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(value.as_str()?).ok()?;
    Some(String::from_utf8(bytes).ok()?.trim().to_owned()).filter(|text| !text.is_empty())
}

async fn is_alive(dir: &Path) -> bool {
    let dir = dir.to_owned();
    let looked = tokio::task::spawn_blocking(move || fs::metadata(dir));
    match tokio::time::timeout(ALIVE_TIMEOUT, looked).await {
        Ok(Ok(found)) => found.is_ok(),
        _ => true, // slow is not dead
    }
}

async fn mount(bucket: &Bucket, wanted: &Wanted<'_>) -> Result<()> {
    let options = wanted.spec["mountOptions"].as_array().into_iter().flatten();
    let options: Vec<String> = options.filter_map(|o| o.as_str().map(str::to_owned)).collect();
    let group = ownership::fs_group(wanted.pod);
    let choices = match bucket.mounter.as_deref() {
        Some(mounter) => vec![mounter],
        None => vec!["s3fs", "rclone"],
    };
    let Some((mounter, program)) = choices.iter().find_map(|name| Some((*name, mounts::program(name)?)))
    else {
        bail!(
            "cannot mount bucket {:?}: {} is not installed on this node",
            bucket.name,
            choices.join(" or ")
        );
    };
    let target = wanted.dir.to_string_lossy();
    let arguments = match mounter {
        "s3fs" => s3fs(bucket, &target, wanted.read_only, group, &options),
        "rclone" => rclone(bucket, &target, wanted.read_only, group, &options),
        other => bail!("mounter {other:?} is neither s3fs nor rclone"),
    };
    // Keys go by the environment: arguments are for everybody to read.
    let mut environment = vec![
        ("AWSACCESSKEYID", bucket.key.clone()),
        ("AWSSECRETACCESSKEY", bucket.secret.clone()),
        ("AWS_ACCESS_KEY_ID", bucket.key.clone()),
        ("AWS_SECRET_ACCESS_KEY", bucket.secret.clone()),
        ("RCLONE_S3_ACCESS_KEY_ID", bucket.key.clone()),
        ("RCLONE_S3_SECRET_ACCESS_KEY", bucket.secret.clone()),
        // Where it is set, rclone 1.60 refuses to start at all.
        ("AWS_CA_BUNDLE", String::new()),
        ("RCLONE_CACHE_DIR", wanted.host.data_dir.join("rclone").to_string_lossy().into_owned()),
    ];
    if let Some(token) = &bucket.token {
        environment.extend([("AWSSESSIONTOKEN", token.clone()), ("RCLONE_S3_SESSION_TOKEN", token.clone())]);
    }
    // What is wrong with a bucket its clients find out in the background, and tell nobody.
    Client::new(bucket)?.look().await?;
    mounts::run_daemon(&program.to_string_lossy(), &arguments, &environment).await?;
    let volume = wanted.volume.map(|volume| &volume["metadata"]["name"]);
    tracing::info!(?volume, bucket = bucket.name, mounter, "a bucket is mounted");
    match mounts::is_mounted(wanted.dir) && is_alive(wanted.dir).await {
        true => Ok(()),
        false => bail!("{mounter} ended well, but bucket {:?} is not there", bucket.name),
    }
}

fn s3fs(bucket: &Bucket, target: &str, read_only: bool, group: Option<u32>, more: &[String]) -> Vec<String> {
    let source = match bucket.prefix.as_str() {
        "" => bucket.name.clone(),
        prefix => format!("{}:/{prefix}", bucket.name),
    };
    let mut options = vec![
        format!("url={}", bucket.url()),
        format!("endpoint={}", bucket.region),
        "allow_other".into(),
        "retries=2".into(),
        "connect_timeout=10".into(),
    ];
    if bucket.endpoint.is_some() {
        options.push("use_path_request_style".into());
    }
    match group {
        Some(group) => options.extend([format!("gid={group}"), "umask=0007".into()]),
        None => options.push("umask=0000".into()),
    }
    if read_only {
        options.push("ro".into());
    }
    options.extend(more.iter().cloned());
    let mut arguments = vec![source, target.to_owned()];
    arguments.extend(options.into_iter().flat_map(|option| ["-o".to_owned(), option]));
    arguments
}

fn rclone(
    bucket: &Bucket,
    target: &str,
    read_only: bool,
    group: Option<u32>,
    more: &[String],
) -> Vec<String> {
    let source = format!(":s3:{}/{}", bucket.name, bucket.prefix);
    let provider = if bucket.endpoint.is_some() { "Other" } else { "AWS" };
    let mut arguments: Vec<String> = vec!["mount".into(), source.trim_end_matches('/').into(), target.into()];
    let fixed = [
        // No file of the administrator's counts.
        "--config=/dev/null",
        "--daemon",
        "--allow-other",
        // A file that was closed is in the bucket.
        "--vfs-cache-mode=writes",
        "--vfs-write-back=0s",
        "--dir-cache-time=5s",
    ];
    arguments.extend(fixed.map(str::to_owned));
    arguments.extend([
        format!("--s3-provider={provider}"),
        format!("--s3-region={}", bucket.region),
        format!("--s3-endpoint={}", bucket.url()),
    ]);
    match group {
        Some(group) => arguments.extend([format!("--gid={group}"), "--umask=007".into()]),
        None => arguments.push("--umask=000".into()),
    }
    if read_only {
        arguments.push("--read-only".into());
    }
    arguments.extend(more.iter().map(|option| format!("--{}", option.trim_start_matches("--"))));
    arguments
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;

    fn bucket(source: &Value) -> Result<Bucket> {
        let secret = json!({"data": {"accessKeyID": "a2V5", "secretAccessKey": "aHVzaAo="}});
        Bucket::new(source, "shop", &move |_, namespace, name| {
            ((namespace, name) == ("shop", "keys")).then(|| Arc::new(secret.clone()))
        })
    }

    #[test]
    fn a_bucket_is_read_from_its_handle_or_its_attributes_and_its_secret() {
        let found =
            bucket(&json!({"volumeHandle": "b/dir", "nodePublishSecretRef": {"name": "keys"}})).unwrap();
        assert_eq!((found.name.as_str(), found.prefix.as_str()), ("b", "dir"));
        assert_eq!((found.key.as_str(), found.secret.as_str()), ("key", "hush"));
        assert_eq!(found.url(), "https://s3.us-east-1.amazonaws.com");
        let error =
            bucket(&json!({"volumeHandle": "b", "nodePublishSecretRef": {"name": "other"}})).err().unwrap();
        assert_eq!(error.to_string(), "secret shop/other not found");
    }

    #[test]
    fn keys_are_not_among_the_arguments() {
        let source = json!({"volumeHandle": "b/dir", "volumeAttributes": {"endpoint": "http://s3:9000"}, "nodePublishSecretRef": {"name": "keys"}});
        let bucket = bucket(&source).unwrap();
        let s3fs = s3fs(&bucket, "/mnt", true, Some(7), &["use_cache=/x".into()]).join(" ");
        assert_eq!(
            s3fs,
            "b:/dir /mnt -o url=http://s3:9000 -o endpoint=us-east-1 -o allow_other -o retries=2 -o connect_timeout=10 -o \
             use_path_request_style -o gid=7 -o umask=0007 -o ro -o use_cache=/x"
        );
        let rclone = rclone(&bucket, "/mnt", false, None, &[]).join(" ");
        assert!(rclone.starts_with("mount :s3:b/dir /mnt --config=/dev/null --daemon"), "{rclone}");
        assert!(!s3fs.contains("hush") && !rclone.contains("hush"));
    }
}
