//! The API at the first service address, where pods look for it: each node passes connections on to the server it talks to
//! itself. So the server may listen where no pod could reach it, and its certificate is seen unchanged.
use super::API_ADDRESS;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

const PORT: u16 = 443;
const CONNECTIONS: usize = 4096;
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// `server` as `host:port`. Does not end.
pub async fn serve(server: String) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    let mut pause = FIRST_PAUSE;
    loop {
        match TcpListener::bind((API_ADDRESS, PORT)).await {
            Ok(listener) => {
                pause = FIRST_PAUSE;
                accept(&listener, &server, &places).await;
            }
            // The address comes with the pods' bridge.
            Err(error) => tracing::debug!(%error, "the API's service address is not there yet"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Until accepting fails.
async fn accept(listener: &TcpListener, server: &str, places: &Arc<Semaphore>) {
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let mut client = match listener.accept().await {
            Ok((client, _)) => client,
            Err(error) => {
                tracing::warn!(%error, "cannot accept a pod's connection to the API");
                return;
            }
        };
        let server = server.to_owned();
        tokio::spawn(async move {
            match tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(&server)).await {
                Ok(Ok(mut upstream)) => {
                    let _ = client.set_nodelay(true);
                    let _ = upstream.set_nodelay(true);
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut upstream).await;
                }
                _ => tracing::debug!(server, "a pod's connection to the API could not be passed on"),
            }
            drop(place);
        });
    }
}
