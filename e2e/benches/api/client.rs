//! A client that costs little: one TLS connection, HTTP/1.1 by hand. It shares the machine with what it measures.
use anyhow::{Context, Result, bail, ensure};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use std::io::BufRead;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// Where the API is and who asks; cheap to clone.
#[derive(Clone)]
pub struct Api {
    addr: SocketAddr,
    connector: TlsConnector,
    token: Arc<str>,
}

impl Api {
    /// From what `pilothouse` leaves in its data directory.
    pub fn of(data_dir: &Path) -> Result<Self> {
        let kubeconfig = std::fs::read_to_string(data_dir.join("kubeconfig"))?;
        let field = |name: &str| {
            let line = kubeconfig.lines().find_map(|line| line.split_once(&format!("{name}: ")));
            line.map(|(_, value)| value.trim()).with_context(|| format!("the kubeconfig has no {name}"))
        };
        let addr = field("server")?.trim_start_matches("https://").parse()?;
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(data_dir.join("ca.crt"))?)?;
        let config =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()?
                .with_root_certificates(roots)
                .with_no_client_auth();
        Ok(Self { addr, connector: TlsConnector::from(Arc::new(config)), token: field("token")?.into() })
    }

    pub async fn connect(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.addr).await?;
        stream.set_nodelay(true)?;
        let stream = self.connector.connect(ServerName::from(self.addr.ip()), stream).await?;
        let head = format!(
            " HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n",
            self.addr, self.token
        );
        Ok(Connection { stream, head, buffer: Vec::with_capacity(64 * 1024), taken: 0 })
    }
}

pub struct Connection {
    stream: TlsStream<TcpStream>,
    /// What every request says.
    head: String,
    buffer: Vec<u8>,
    /// Bytes at the buffer's start that were consumed.
    taken: usize,
}

impl Connection {
    async fn send(&mut self, method: &str, path: &str, body: &str) -> Result<()> {
        let request = format!("{method} {path}{}Content-Length: {}\r\n\r\n{body}", self.head, body.len());
        self.stream.write_all(request.as_bytes()).await?;
        self.stream.flush().await?;
        Ok(())
    }

    async fn read_more(&mut self) -> Result<()> {
        self.buffer.drain(..self.taken);
        self.taken = 0;
        ensure!(self.stream.read_buf(&mut self.buffer).await? > 0, "the server closed the connection");
        Ok(())
    }

    /// The status code and what the body's framing is: its length, or None for chunks.
    async fn head(&mut self) -> Result<(u16, Option<usize>)> {
        loop {
            let unread = &self.buffer[self.taken..];
            if let Some(end) = unread.windows(4).position(|window| window == b"\r\n\r\n") {
                let head = std::str::from_utf8(&unread[..end])?.to_ascii_lowercase();
                let code = head.split(' ').nth(1).context("no status line")?.parse()?;
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                let length = length.map(|text| text.trim().parse()).transpose()?;
                self.taken += end + 4;
                return Ok((code, length));
            }
            self.read_more().await?;
        }
    }

    /// One request; its body's length is the answer, and the body is looked at only where it says what went wrong.
    pub async fn call(&mut self, method: &str, path: &str, body: &str) -> Result<usize> {
        self.send(method, path, body).await?;
        let (code, length) = self.head().await?;
        let length = length.context("the answer has no length")?;
        let mut left = length;
        let mut failure = Vec::new();
        loop {
            let here = left.min(self.buffer.len() - self.taken);
            if code >= 400 {
                failure.extend_from_slice(&self.buffer[self.taken..self.taken + here]);
            }
            self.taken += here;
            left -= here;
            if left == 0 {
                break;
            }
            self.read_more().await?;
        }
        if code >= 400 {
            bail!("{method} {path}: {code} {}", String::from_utf8_lossy(&failure));
        }
        Ok(length)
    }

    /// Begins a watch; its lines come from [`Connection::next_line`].
    pub async fn watch(&mut self, path: &str) -> Result<()> {
        self.send("GET", path, "").await?;
        let (code, _) = self.head().await?;
        ensure!(code == 200, "{path}: {code}");
        Ok(())
    }

    /// The next event of a watch. Chunk headers lie between lines and are passed over: no JSON starts with a digit.
    pub async fn next_line(&mut self) -> Result<&[u8]> {
        loop {
            let mut rest = &self.buffer[self.taken..];
            let length = rest.skip_until(b'\n')?; // as fast as can be, unlike a look at each byte
            if self.buffer[self.taken..].get(length.wrapping_sub(1)) != Some(&b'\n') {
                self.read_more().await?;
                continue;
            }
            let end = length - 1;
            let (start, end) = (self.taken, self.taken + end);
            self.taken = end + 1;
            if self.buffer[start] == b'{' {
                return Ok(&self.buffer[start..end]);
            }
        }
    }
}
