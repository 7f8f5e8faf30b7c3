//! A real Chromium, driven through ChromeDriver. Elements are found by their `data-testid`, which the dashboard's `app.rs`
//! lists; everything waits for what it looks for.
use anyhow::{Context, Result, bail};
use fantoccini::elements::Element;
use fantoccini::wd::{Capabilities, Locator};
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A pod that ignores its signal is given 30 seconds to end.
const PATIENCE: Duration = Duration::from_secs(90);
const LOOK_AGAIN: Duration = Duration::from_millis(100);
const DRIVER_START: Duration = Duration::from_secs(20);
/// Control and A: what is written next replaces what is there.
const SELECT_ALL: &str = "\u{e009}a\u{e000}";

pub struct Browser {
    client: Client,
    driver: Child,
    port: u16,
    profile: std::path::PathBuf,
}

impl Browser {
    /// `profile` is a directory of its own, which it makes.
    pub async fn start(profile: &Path) -> Result<Self> {
        std::fs::create_dir_all(profile)?;
        // Free now; ChromeDriver has no way to pick a port and tell.
        let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let driver = Command::new("chromedriver")
            .arg(format!("--port={port}"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("chromedriver is not on PATH: ./dev test installs it")?;
        let arguments = [
            "--headless=new",
            "--no-sandbox", // as root, which the node's agent needs
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--window-size=1280,860",
            &format!("--user-data-dir={}", profile.display()),
        ]
        .map(str::to_owned);
        let mut capabilities = Capabilities::new();
        capabilities.insert("goog:chromeOptions".into(), json!({"args": arguments}));
        // The issuer of a test has a certificate of its own making.
        capabilities.insert("acceptInsecureCerts".into(), json!(true));
        capabilities.insert("goog:loggingPrefs".into(), json!({"browser": "ALL"}));
        let url = format!("http://127.0.0.1:{port}");
        let until = Instant::now() + DRIVER_START;
        let client = loop {
            let mut builder = ClientBuilder::new(HttpConnector::new());
            match builder.capabilities(capabilities.clone()).connect(&url).await {
                Ok(client) => break client,
                Err(error) if Instant::now() > until => return Err(error).context("Chromium does not start"),
                Err(_) => tokio::time::sleep(LOOK_AGAIN).await,
            }
        };
        Ok(Self { client, driver, port, profile: profile.to_owned() })
    }

    pub async fn open(&self, url: &str) -> Result<()> {
        Ok(self.client.goto(url).await?)
    }

    /// The element, once it can be seen.
    pub async fn find(&self, test_id: &str) -> Result<Element> {
        let selector = format!("[data-testid='{test_id}']");
        self.eventually(&format!("an element {test_id}"), async || {
            for element in self.client.find_all(Locator::Css(&selector)).await? {
                if element.is_displayed().await.unwrap_or(false) {
                    return Ok(Some(element));
                }
            }
            Ok(None)
        })
        .await
    }

    /// Clicks what can be clicked: a page that is drawn anew in between is looked at again.
    pub async fn click(&self, test_id: &str) -> Result<()> {
        self.eventually(&format!("a click on {test_id}"), async || {
            Ok(self.find(test_id).await?.click().await.ok())
        })
        .await
    }

    pub async fn fill(&self, test_id: &str, text: &str) -> Result<()> {
        let field = self.find(test_id).await?;
        field.send_keys(SELECT_ALL).await?;
        Ok(field.send_keys(text).await?)
    }

    pub async fn choose(&self, test_id: &str, value: &str) -> Result<()> {
        self.eventually(&format!("the choice {value} of {test_id}"), async || {
            Ok(self.find(test_id).await?.select_by_value(value).await.ok())
        })
        .await
    }

    /// Waits until the element's text holds `wanted`.
    pub async fn reads(&self, test_id: &str, wanted: &str) -> Result<()> {
        let mut last = String::new();
        let found = self
            .eventually(wanted, async || {
                let text = self.find(test_id).await?.text().await.unwrap_or_default();
                let holds = text.contains(wanted);
                last = text;
                Ok(holds.then_some(()))
            })
            .await;
        found.with_context(|| format!("{test_id} should read {wanted:?}, but reads {last:?}"))
    }

    /// Waits until the page's text holds `wanted`.
    pub async fn shows(&self, wanted: &str) -> Result<()> {
        self.eventually(wanted, async || Ok(self.text().await?.contains(wanted).then_some(()))).await
    }

    pub async fn is_gone(&self, test_id: &str) -> Result<()> {
        let selector = format!("[data-testid='{test_id}']");
        self.eventually(&format!("the end of {test_id}"), async || {
            Ok(self.client.find_all(Locator::Css(&selector)).await?.is_empty().then_some(()))
        })
        .await
    }

    /// How many there are whose test id starts so.
    pub async fn count(&self, prefix: &str) -> Result<usize> {
        let selector = format!("[data-testid^='{prefix}']");
        Ok(self.client.find_all(Locator::Css(&selector)).await?.len())
    }

    /// What a script answers.
    pub async fn script(&self, text: &str) -> Result<serde_json::Value> {
        Ok(self.client.execute(text, Vec::new()).await?)
    }

    /// The whole page's text.
    pub async fn text(&self) -> Result<String> {
        Ok(self.client.find(Locator::Css("body")).await?.text().await?)
    }

    /// A picture of the page as it is, kept where `PILOTHOUSE_SCREENSHOTS` says.
    pub async fn picture(&self, name: &str) -> Result<()> {
        if let Some(dir) = std::env::var_os("PILOTHOUSE_SCREENSHOTS") {
            std::fs::create_dir_all(&dir)?;
            std::fs::write(Path::new(&dir).join(format!("{name}.png")), self.client.screenshot().await?)?;
        }
        Ok(())
    }

    /// Errors in the browser's console since the last call: broken scripts, refused requests.
    pub async fn console_errors(&self) -> Result<Vec<String>> {
        let session = self.client.session_id().await?.context("the browser has no session")?;
        let body = r#"{"type":"browser"}"#;
        // ChromeDriver's own call, which the WebDriver standard does not have.
        let mut driver = TcpStream::connect(("127.0.0.1", self.port))?;
        write!(
            driver,
            "POST /session/{session}/se/log HTTP/1.1\r\nHost: 127.0.0.1:{}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.port,
            body.len()
        )?;
        // It keeps the connection open whatever it is asked, so the answer ends where its length says.
        driver.set_read_timeout(Some(PATIENCE))?;
        let mut driver = BufReader::new(driver);
        let (mut length, mut line) = (0, String::new());
        while driver.read_line(&mut line)? > 2 {
            if let Some((name, value)) = line.split_once(':')
                && name.eq_ignore_ascii_case("content-length")
            {
                length = value.trim().parse()?;
            }
            line.clear();
        }
        let mut answer = vec![0; length];
        driver.read_exact(&mut answer)?;
        let answer: Value = serde_json::from_slice(&answer)?;
        let entries = answer["value"].as_array().with_context(|| format!("no log: {answer}"))?;
        let severe = entries.iter().filter(|entry| entry["level"] == "SEVERE");
        Ok(severe.filter_map(|entry| entry["message"].as_str()).map(str::to_owned).collect())
    }

    pub async fn eventually<T>(
        &self,
        what: &str,
        mut look: impl AsyncFnMut() -> Result<Option<T>>,
    ) -> Result<T> {
        let until = Instant::now() + PATIENCE;
        loop {
            if let Some(found) = look().await? {
                return Ok(found);
            }
            if Instant::now() > until {
                let page = self.text().await.unwrap_or_default();
                bail!("{what} did not come within {PATIENCE:?}; the page reads:\n{page}");
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    pub async fn close(self) -> Result<()> {
        Ok(self.client.clone().close().await?)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.driver.kill();
        let _ = self.driver.wait();
        let _ = std::fs::remove_dir_all(&self.profile);
    }
}
