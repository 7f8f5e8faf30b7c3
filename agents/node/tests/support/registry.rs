//! A registry of one image that wants a password, for the Docker of this machine.
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::sync::Arc;

const MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";

struct Image {
    /// What the `authorization` header must say.
    authorization: String,
    manifest: Vec<u8>,
    /// By digest.
    blobs: Vec<(String, Vec<u8>)>,
}

/// Serves `image`, which is here already, as `app:1`, to who knows `authorization`. Call it before the test enters a network of its
/// own. `127.0.0.1:port`, which Docker talks to without TLS.
pub fn serve(image: &str, authorization: &str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let image = Arc::new(load(image, authorization));
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let image = image.clone();
            std::thread::spawn(move || while answer(&stream, &image).is_some() {});
        }
    });
    address
}

fn load(image: &str, authorization: &str) -> Image {
    let saved = Command::new("docker").args(["save", image]).output().unwrap().stdout;
    let mut archive = tar::Archive::new(saved.as_slice());
    let mut files = std::collections::HashMap::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().to_string_lossy().into_owned();
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        files.insert(path, bytes);
    }
    let list: Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    let config_file = list[0]["Config"].as_str().unwrap();
    let config_bytes = files[config_file].clone();
    let config: Value = serde_json::from_slice(&config_bytes).unwrap();
    let name = config_file.rsplit('/').next().unwrap().trim_end_matches(".json");
    let config_digest = format!("sha256:{name}");
    let layer = files[list[0]["Layers"][0].as_str().unwrap()].clone();
    let layer_digest = config["rootfs"]["diff_ids"][0].as_str().unwrap().to_owned();
    let manifest = json!({"schemaVersion": 2, "mediaType": MANIFEST,
        "config": {"mediaType": "application/vnd.docker.container.image.v1+json", "size": config_bytes.len(), "digest": config_digest},
        "layers": [{"mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip", "size": layer.len(), "digest": layer_digest}]});
    let blobs = vec![(config_digest, config_bytes), (layer_digest, layer)];
    Image { authorization: authorization.to_owned(), manifest: manifest.to_string().into_bytes(), blobs }
}

fn answer(mut stream: &TcpStream, image: &Image) -> Option<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first).ok().filter(|read| *read > 0)?;
    let mut allowed = false;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok().filter(|read| *read > 0)?;
        if line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':')?;
        allowed |= name.eq_ignore_ascii_case("authorization") && value.trim() == image.authorization;
    }
    let mut words = first.split_whitespace();
    let (method, path) = (words.next()?, words.next()?);
    let blob = image.blobs.iter().find(|(digest, _)| path.ends_with(digest.as_str()));
    let (status, kind, body) = match blob {
        _ if !allowed => (
            "401 Unauthorized",
            "application/json",
            &b"{\"errors\":[{\"code\":\"UNAUTHORIZED\",\"message\":\"who are you\"}]}"[..],
        ),
        Some((_, bytes)) => ("200 OK", "application/octet-stream", bytes.as_slice()),
        None if path.contains("/manifests/") => ("200 OK", MANIFEST, image.manifest.as_slice()),
        None => ("200 OK", "application/json", &b"{}"[..]),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nwww-authenticate: Basic realm=\"test\"\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).ok()?;
    if method != "HEAD" {
        stream.write_all(body).ok()?;
    }
    Some(())
}
