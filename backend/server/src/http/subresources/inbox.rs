//! What a client has sent on one stream of a connection that carries several, until whoever serves the stream takes it.
//!
//! Kubernetes' stream protocols have no credits: the client sends what it has, of all streams on one connection. So each
//! stream has room of its own, and a reader that stands still costs the others nothing until that room is full. Then the
//! connection is not read for a while, which is all that tells a client to send less; in the end the stream is given up.
use bytes::Bytes;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Bytes of one stream that wait for their reader.
const ROOM: usize = 64 * 1024;
/// What goes through a queue at once.
const LARGEST_CHUNK: usize = 16 * 1024;
/// A reader that has taken nothing for so long, with its room full, stands still: what others on the connection wait for it.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The client's end.
pub struct Inbox {
    chunks: mpsc::UnboundedSender<(Bytes, OwnedSemaphorePermit)>,
    room: Arc<Semaphore>,
    /// Chunks that the reader took.
    taken: Arc<AtomicU64>,
}

/// The reader's end.
pub struct FromClient {
    chunks: mpsc::UnboundedReceiver<(Bytes, OwnedSemaphorePermit)>,
    taken: Arc<AtomicU64>,
}

/// The reader of a stream stands still.
#[derive(Debug, PartialEq)]
pub struct StandsStill;

pub fn inbox() -> (Inbox, FromClient) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let taken = Arc::new(AtomicU64::new(0));
    let room = Arc::new(Semaphore::new(ROOM));
    (Inbox { chunks: sender, room, taken: taken.clone() }, FromClient { chunks: receiver, taken })
}

impl Inbox {
    /// Waits until there is room, with `patience` for a reader that stands still; None: for ever, where nobody else is kept
    /// waiting. Bytes for a reader that is gone are dropped.
    pub async fn put(&self, mut bytes: Bytes, patience: Option<Duration>) -> Result<(), StandsStill> {
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(LARGEST_CHUNK));
            let size = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let Some(room) = self.room_for(size, patience).await? else { return Ok(()) };
            let _ = self.chunks.send((chunk, room)); // the reader may have left
        }
        Ok(())
    }

    /// None: the reader is gone.
    async fn room_for(
        &self,
        size: u32,
        patience: Option<Duration>,
    ) -> Result<Option<OwnedSemaphorePermit>, StandsStill> {
        loop {
            let before = self.taken.load(Ordering::Relaxed);
            tokio::select! {
                room = self.room.clone().acquire_many_owned(size) => return Ok(room.ok()),
                () = self.chunks.closed() => return Ok(None),
                () = tokio::time::sleep(patience.unwrap_or_default()), if patience.is_some() => {}
            }
            if self.taken.load(Ordering::Relaxed) == before {
                return Err(StandsStill);
            }
        }
    }
}

impl FromClient {
    /// The next chunk; None when the client will send no more.
    pub async fn recv(&mut self) -> Option<Bytes> {
        let (bytes, _room) = self.chunks.recv().await?;
        self.taken.fetch_add(1, Ordering::Relaxed);
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_slow_reader_gets_everything_and_one_that_stands_still_is_given_up() {
        let (inbox, mut reader) = inbox();
        let sent = Bytes::from(vec![7; ROOM * 3]);
        let reading = async {
            let mut read = 0;
            while read < sent.len() {
                read += reader.recv().await.unwrap().len();
            }
        };
        let (put, ()) = tokio::join!(inbox.put(sent.clone(), Some(PATIENCE)), reading);
        assert_eq!(put, Ok(()));
        assert_eq!(inbox.put(sent.clone(), Some(Duration::from_millis(10))).await, Err(StandsStill));
        let mut waiting = 0;
        while let Ok((chunk, _)) = reader.chunks.try_recv() {
            waiting += chunk.len();
        }
        assert_eq!(waiting, ROOM, "no more than its room was taken of the client");
    }

    #[tokio::test]
    async fn bytes_for_a_reader_that_left_are_dropped() {
        let (inbox, reader) = inbox();
        let leaving = async { drop(reader) };
        let put = inbox.put(Bytes::from(vec![7; ROOM * 3]), None);
        assert_eq!(tokio::join!(put, leaving).0, Ok(()));
    }
}
