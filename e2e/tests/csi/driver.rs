//! A small storage driver: each volume a directory, or a file behind a loop device. It speaks the Container Storage Interface
//! over sockets below the node's root directory, as drivers in pods do, and remembers what it was asked.
use anyhow::{Context, Result};
use bytes::Bytes;
use futures::stream;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::{HeaderMap, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pilothouse_node::csi::messages::*;
use pilothouse_node::grpc;
use prost::Message;
use std::collections::HashMap;
use std::convert::Infallible;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub const NAME: &str = "dir.example.com";
pub const TOPOLOGY: &str = "topology.dir.example.com/place";

/// What it was asked: the method, the volume, and what came along.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub volume: String,
    pub context: HashMap<String, String>,
    pub capacity: i64,
}

struct Shared {
    /// Where the volumes are.
    dir: PathBuf,
    endpoint: PathBuf,
    asked: Mutex<Vec<Asked>>,
    loops: Mutex<HashMap<String, String>>,
}

pub struct Driver {
    shared: Arc<Shared>,
    registration: PathBuf,
    _runtime: tokio::runtime::Runtime,
}

impl Driver {
    /// Serves below the node's root directory.
    pub fn start(root: &Path, dir: &Path) -> Result<Self> {
        let endpoint = root.join("plugins").join(NAME).join("csi.sock");
        let registration = root.join("plugins_registry").join(format!("{NAME}-reg.sock"));
        let shared = Shared {
            dir: dir.to_owned(),
            endpoint: endpoint.clone(),
            asked: Mutex::default(),
            loops: Mutex::default(),
        };
        let shared = Arc::new(shared);
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        for socket in [&endpoint, &registration] {
            fs::create_dir_all(socket.parent().context("a socket has a directory")?)?;
            let _ = fs::remove_file(socket);
            let _inside = runtime.enter();
            let listener = tokio::net::UnixListener::bind(socket)?;
            let shared = shared.clone();
            runtime.spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let shared = shared.clone();
                    let service = hyper::service::service_fn(move |request| serve(shared.clone(), request));
                    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                    tokio::spawn(connection.serve_connection(TokioIo::new(stream), service));
                }
            });
        }
        Ok(Self { shared, registration, _runtime: runtime })
    }

    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.shared.asked).clone()
    }

    /// The methods about one volume, in order.
    pub fn methods(&self, volume: &str) -> Vec<String> {
        let asked = self.asked();
        asked.into_iter().filter(|asked| asked.volume == volume).map(|asked| asked.method).collect()
    }

    pub fn dir(&self, volume: &str) -> PathBuf {
        self.shared.dir.join(volume)
    }

    /// The driver's pod goes.
    pub fn leave(&self) -> Result<()> {
        Ok(fs::remove_file(&self.registration)?)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        for device in lock(&self.shared.loops).values() {
            let _ = Command::new("losetup").args(["-d", device]).status();
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn serve(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, hyper::Error> {
    let method = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let answered = tokio::task::spawn_blocking(move || answer(&shared, &method, body.slice(5..)));
    let answered = answered.await.unwrap_or_else(|error| Err(error.into()));
    let mut frames = Vec::new();
    let (code, message) = match answered {
        Ok(bytes) => {
            frames.push(Ok(Frame::data(bytes)));
            ("0", String::new())
        }
        Err(error) => ("13", format!("{error:#}").replace(['\n', '%'], " ")),
    };
    let mut trailers = HeaderMap::new();
    for (name, value) in [("grpc-status", code.to_owned()), ("grpc-message", message)] {
        if let Ok(value) = value.parse() {
            trailers.insert(name, value);
        }
    }
    frames.push(Ok(Frame::trailers(trailers)));
    Ok(Response::new(StreamBody::new(stream::iter(frames)).boxed()))
}

fn answer(shared: &Shared, method: &str, body: Bytes) -> Result<Bytes> {
    let note = |volume: &str, context: HashMap<String, String>, capacity: i64| {
        let asked = Asked { method: method.to_owned(), volume: volume.to_owned(), context, capacity };
        lock(&shared.asked).push(asked);
    };
    let done = || Ok(grpc::framed(&Empty {}));
    match method {
        "GetInfo" => Ok(grpc::framed(&PluginInfo {
            r#type: "CSIPlugin".into(),
            name: NAME.into(),
            endpoint: shared.endpoint.to_string_lossy().into_owned(),
            supported_versions: vec!["1.0.0".into()],
        })),
        "NotifyRegistrationStatus" => {
            let status = RegistrationStatus::decode(body)?;
            note(&status.error, HashMap::new(), status.plugin_registered.into());
            done()
        }
        "NodeGetInfo" => Ok(grpc::framed(&NodeInfo {
            node_id: "node-one".into(),
            max_volumes_per_node: 8,
            accessible_topology: Some(Topology { segments: [(TOPOLOGY.into(), "one".into())].into() }),
        })),
        "NodeGetCapabilities" => {
            let of =
                |ability: Ability| NodeServiceCapability { rpc: Some(NodeRpc { r#type: ability as i32 }) };
            let capabilities = vec![of(Ability::StageUnstageVolume), of(Ability::ExpandVolume)];
            Ok(grpc::framed(&NodeCapabilities { capabilities }))
        }
        "NodeStageVolume" => {
            let asked = NodeStageVolume::decode(body)?;
            note(&asked.volume_id, asked.publish_context.clone(), 0);
            let dir = shared.dir.join(&asked.volume_id);
            fs::create_dir_all(&dir)?;
            if !is_block(asked.volume_capability.as_ref()) && !is_mounted(&asked.staging_target_path)? {
                mount(&["--bind", &dir.to_string_lossy(), &asked.staging_target_path])?;
            }
            done()
        }
        "NodePublishVolume" => {
            let asked = NodePublishVolume::decode(body)?;
            note(&asked.volume_id, asked.volume_context.clone(), 0);
            publish(shared, &asked)?;
            done()
        }
        "NodeUnpublishVolume" => {
            let asked = NodeUnpublishVolume::decode(body)?;
            note(&asked.volume_id, HashMap::new(), 0);
            if is_mounted(&asked.target_path)? {
                run("umount", &[&asked.target_path])?;
            }
            let target = Path::new(&asked.target_path);
            let _ = if target.is_dir() { fs::remove_dir(target) } else { fs::remove_file(target) };
            done()
        }
        "NodeUnstageVolume" => {
            let asked = NodeUnstageVolume::decode(body)?;
            note(&asked.volume_id, HashMap::new(), 0);
            if is_mounted(&asked.staging_target_path)? {
                run("umount", &[&asked.staging_target_path])?;
            }
            done()
        }
        "NodeExpandVolume" => {
            let asked = NodeExpandVolume::decode(body)?;
            let bytes = asked.capacity_range.unwrap_or_default().required_bytes;
            note(&asked.volume_id, HashMap::new(), bytes);
            Ok(grpc::framed(&NodeExpanded { capacity_bytes: bytes }))
        }
        other => anyhow::bail!("{other} is not served"),
    }
}

fn is_block(capability: Option<&VolumeCapability>) -> bool {
    capability.is_some_and(|capability| matches!(capability.access_type, Some(AccessType::Block(_))))
}

fn publish(shared: &Shared, asked: &NodePublishVolume) -> Result<()> {
    let target = Path::new(&asked.target_path);
    if is_mounted(&asked.target_path)? {
        return Ok(());
    }
    if is_block(asked.volume_capability.as_ref()) {
        let device = loop_device(shared, &asked.volume_id)?;
        fs::write(target, [])?;
        return mount(&["--bind", &device, &asked.target_path]);
    }
    fs::create_dir_all(target)?;
    // A pod's own volume has no place where it is staged.
    let source = match asked.staging_target_path.as_str() {
        "" => {
            let dir = shared.dir.join(&asked.volume_id);
            fs::create_dir_all(&dir)?;
            dir.to_string_lossy().into_owned()
        }
        staged => staged.to_owned(),
    };
    mount(&["--bind", &source, &asked.target_path])?;
    match asked.readonly {
        true => mount(&["-o", "remount,bind,ro", &asked.target_path]),
        false => Ok(()),
    }
}

fn loop_device(shared: &Shared, volume: &str) -> Result<String> {
    let mut loops = lock(&shared.loops);
    if let Some(device) = loops.get(volume) {
        return Ok(device.clone());
    }
    let file = shared.dir.join(volume).join("disk");
    fs::File::create(&file)?.set_len(4 << 20)?;
    let device = run("losetup", &["-f", "--show", &file.to_string_lossy()])?.trim().to_owned();
    loops.insert(volume.to_owned(), device.clone());
    Ok(device)
}

fn is_mounted(path: &str) -> Result<bool> {
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    Ok(table.lines().any(|line| line.split(' ').nth(4) == Some(path)))
}

fn mount(arguments: &[&str]) -> Result<()> {
    run("mount", arguments).map(drop)
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output =
        Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    anyhow::ensure!(output.status.success(), "{program} {arguments:?}: {told}");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
