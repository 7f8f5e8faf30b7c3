//! `pilothouse.io/s3`: a bucket of its own, or a directory of a shared one, mounted by FUSE.
use super::{Maker, Order};
use pilothouse_api::storage::S3_DRIVER;
use serde_json::{Value, json};

pub struct S3;

impl Maker for S3 {
    fn name(&self) -> &'static str {
        pilothouse_api::storage::S3
    }

    /// Parameters: `secretName` and `secretNamespace` (or a driver's `csi.storage.k8s.io/node-publish-secret-…`), `endpoint`
    /// (none: AWS), `region`, `bucket` (none: one for each volume), `mounter` (`s3fs` or `rclone`).
    fn fill(&self, order: &Order<'_>, volume: &mut Value) -> Result<(), String> {
        let secret = |field: &str, driver: &str| {
            let long = format!("csi.storage.k8s.io/node-publish-secret-{driver}");
            let value = order.parameter(field).or_else(|| order.parameter(&long));
            value.map(|template| order.expanded(template))
        };
        let name = secret("secretName", "name")
            .ok_or("parameter \"secretName\" of the storage class is required")?;
        let namespace = secret("secretNamespace", "namespace").unwrap_or_else(|| "${pvc.namespace}".into());
        let (bucket, prefix) = match order.parameter("bucket") {
            Some(bucket) => (order.expanded(bucket), order.volume),
            None => (order.volume.to_owned(), ""),
        };
        let mut attributes = json!({"bucket": bucket, "prefix": prefix});
        for field in ["endpoint", "region", "mounter"] {
            if let Some(value) = order.parameter(field) {
                attributes[field] = value.into();
            }
        }
        let handle = if prefix.is_empty() { bucket } else { format!("{bucket}/{prefix}") };
        volume["spec"]["csi"] = json!({
            "driver": S3_DRIVER, "volumeHandle": handle, "volumeAttributes": attributes,
            "nodePublishSecretRef": {"name": name, "namespace": order.expanded(&namespace)},
        });
        Ok(())
    }
}
