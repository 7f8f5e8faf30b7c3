//! SPDY/3.1 framing as a pure state machine: bytes in, events and bytes out. Kubernetes' older stream protocols use it, and
//! `kubectl port-forward` tunnels it through a WebSocket. After "SPDY Protocol - Draft 3.1".
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::collections::HashMap;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;
const FIN: u8 = 1;
/// Frames of streams are small; a larger one is somebody's mistake.
const LONGEST_FRAME: usize = 1 << 24;
const LONGEST_HEADERS: usize = 64 * 1024;
/// What one of our data frames carries at most.
const CHUNK: usize = 16 * 1024;

#[derive(Debug, PartialEq)]
pub enum Event {
    /// Header names are in lower case.
    Opened {
        stream: u32,
        headers: HashMap<String, String>,
    },
    Data {
        stream: u32,
        bytes: Bytes,
        last: bool,
    },
    Reset {
        stream: u32,
    },
    GoAway,
}

#[derive(Debug)]
pub struct ProtocolError;

/// The server's half of a session.
pub struct Session {
    input: BytesMut,
    output: BytesMut,
    inflate: Decompress,
    deflate: Compress,
}

impl Default for Session {
    fn default() -> Self {
        Self {
            input: BytesMut::new(),
            output: BytesMut::new(),
            inflate: Decompress::new(true),
            deflate: Compress::new(Compression::default(), true),
        }
    }
}

impl Session {
    /// Takes bytes of the peer; streams that it opens are accepted at once.
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Event>, ProtocolError> {
        self.input.extend_from_slice(bytes);
        let mut events = Vec::new();
        while self.input.len() >= 8 {
            let length = usize::from(self.input[5]) << 16
                | usize::from(self.input[6]) << 8
                | usize::from(self.input[7]);
            if length > LONGEST_FRAME {
                return Err(ProtocolError);
            }
            if self.input.len() < 8 + length {
                break;
            }
            let mut frame = self.input.split_to(8 + length).freeze();
            let first = frame.get_u32();
            let flags = frame.get_u8();
            frame.advance(3);
            match first >> 31 {
                0 => self.data(first, flags, frame, &mut events),
                _ => self.control(u16::try_from(first & 0xffff).unwrap_or(0), flags, frame, &mut events)?,
            }
        }
        Ok(events)
    }

    fn data(&mut self, stream: u32, flags: u8, bytes: Bytes, events: &mut Vec<Event>) {
        // What arrived is given back at once; the bound is the queue behind the event.
        if let Some(length) = u32::try_from(bytes.len()).ok().filter(|l| *l > 0) {
            for id in [stream, 0] {
                self.control_frame(WINDOW_UPDATE, 0, &[id.to_be_bytes(), length.to_be_bytes()].concat());
            }
        }
        events.push(Event::Data { stream, bytes, last: flags & FIN != 0 });
    }

    fn control(
        &mut self,
        kind: u16,
        flags: u8,
        mut frame: Bytes,
        events: &mut Vec<Event>,
    ) -> Result<(), ProtocolError> {
        let need =
            |frame: &Bytes, length: usize| if frame.len() < length { Err(ProtocolError) } else { Ok(()) };
        match kind {
            SYN_STREAM => {
                need(&frame, 10)?;
                let stream = frame.get_u32() & 0x7fff_ffff;
                frame.advance(6);
                let headers = self.read_headers(&frame)?;
                let none = self.write_headers()?;
                self.control_frame(SYN_REPLY, 0, &[&stream.to_be_bytes()[..], &none].concat());
                events.push(Event::Opened { stream, headers });
                if flags & FIN != 0 {
                    events.push(Event::Data { stream, bytes: Bytes::new(), last: true });
                }
            }
            HEADERS | SYN_REPLY => {
                need(&frame, 4)?;
                frame.advance(4);
                self.read_headers(&frame)?; // the compression goes on over all of them
            }
            RST_STREAM => {
                need(&frame, 8)?;
                events.push(Event::Reset { stream: frame.get_u32() & 0x7fff_ffff });
            }
            PING => {
                need(&frame, 4)?;
                self.control_frame(PING, 0, &frame[..4]);
            }
            GOAWAY => events.push(Event::GoAway),
            SETTINGS | WINDOW_UPDATE => {}
            _ => {}
        }
        Ok(())
    }

    fn read_headers(&mut self, compressed: &[u8]) -> Result<HashMap<String, String>, ProtocolError> {
        let mut plain = Vec::with_capacity(4096);
        let (mut at, mut dictionary_set) = (0, false);
        loop {
            let before = (self.inflate.total_in(), self.inflate.total_out());
            if plain.len() == plain.capacity() {
                plain.reserve(4096);
            }
            let outcome = self.inflate.decompress_vec(&compressed[at..], &mut plain, FlushDecompress::Sync);
            at += usize::try_from(self.inflate.total_in() - before.0).unwrap_or(0);
            match outcome {
                Ok(Status::StreamEnd) => break,
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() && !dictionary_set => {
                    self.inflate.set_dictionary(&dictionary()).map_err(|_| ProtocolError)?;
                    dictionary_set = true;
                    continue;
                }
                Err(_) => return Err(ProtocolError),
            }
            if plain.len() > LONGEST_HEADERS {
                return Err(ProtocolError);
            }
            let moved = (self.inflate.total_in(), self.inflate.total_out()) != before;
            if at >= compressed.len() && plain.len() < plain.capacity() || !moved {
                break;
            }
        }
        parse_headers(&plain)
    }

    /// A block without headers.
    fn write_headers(&mut self) -> Result<Vec<u8>, ProtocolError> {
        if self.deflate.total_in() == 0 {
            self.deflate.set_dictionary(&dictionary()).map_err(|_| ProtocolError)?;
        }
        let mut block = Vec::with_capacity(64);
        self.deflate
            .compress_vec(&0_u32.to_be_bytes(), &mut block, FlushCompress::Sync)
            .map_err(|_| ProtocolError)?;
        Ok(block)
    }

    fn control_frame(&mut self, kind: u16, flags: u8, payload: &[u8]) {
        self.output.put_u16(0x8003);
        self.output.put_u16(kind);
        self.frame_tail(flags, payload);
    }

    fn frame_tail(&mut self, flags: u8, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap_or(0);
        self.output.put_u32(u32::from(flags) << 24 | length);
        self.output.put_slice(payload);
    }

    pub fn send_data(&mut self, stream: u32, bytes: &[u8], last: bool) {
        let mut chunks = bytes.chunks(CHUNK).peekable();
        if chunks.peek().is_none() {
            self.output.put_u32(stream);
            self.frame_tail(if last { FIN } else { 0 }, &[]);
        }
        while let Some(chunk) = chunks.next() {
            self.output.put_u32(stream);
            self.frame_tail(if last && chunks.peek().is_none() { FIN } else { 0 }, chunk);
        }
    }

    /// Bytes for the peer.
    pub fn take_output(&mut self) -> Bytes {
        self.output.split().freeze()
    }
}

fn parse_headers(mut block: &[u8]) -> Result<HashMap<String, String>, ProtocolError> {
    let mut next = |length: Option<usize>| -> Result<Vec<u8>, ProtocolError> {
        let length = match length {
            Some(length) => length,
            None => {
                let (head, rest) = block.split_first_chunk::<4>().ok_or(ProtocolError)?;
                block = rest;
                usize::try_from(u32::from_be_bytes(*head)).map_err(|_| ProtocolError)?
            }
        };
        let (value, rest) = block.split_at_checked(length).ok_or(ProtocolError)?;
        block = rest;
        Ok(value.to_vec())
    };
    let count = next(Some(4))?;
    let count = u32::from_be_bytes(count.try_into().map_err(|_| ProtocolError)?);
    let mut headers = HashMap::new();
    for _ in 0..count.min(256) {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        let (name, value) = (text(next(None)?), text(next(None)?));
        headers.insert(name.to_ascii_lowercase(), value);
    }
    Ok(headers)
}

/// The compression dictionary of SPDY/3: header names with their lengths, then common values.
fn dictionary() -> Vec<u8> {
    const NAMES: &[&str] = &[
        "options",
        "head",
        "post",
        "put",
        "delete",
        "trace",
        "accept",
        "accept-charset",
        "accept-encoding",
        "accept-language",
        "accept-ranges",
        "age",
        "allow",
        "authorization",
        "cache-control",
        "connection",
        "content-base",
        "content-encoding",
        "content-language",
        "content-length",
        "content-location",
        "content-md5",
        "content-range",
        "content-type",
        "date",
        "etag",
        "expect",
        "expires",
        "from",
        "host",
        "if-match",
        "if-modified-since",
        "if-none-match",
        "if-range",
        "if-unmodified-since",
        "last-modified",
        "location",
        "max-forwards",
        "pragma",
        "proxy-authenticate",
        "proxy-authorization",
        "range",
        "referer",
        "retry-after",
        "server",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
        "user-agent",
        "vary",
        "via",
        "warning",
        "www-authenticate",
        "method",
        "get",
        "status",
        "200 OK",
        "version",
        "HTTP/1.1",
        "url",
        "public",
        "set-cookie",
        "keep-alive",
        "origin",
    ];
    const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505203 \
Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden404 Not \
Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec \
00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,application/xml,application/\
xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";
    let mut dictionary = Vec::new();
    for name in NAMES {
        dictionary.extend(u32::try_from(name.len()).unwrap_or(0).to_be_bytes());
        dictionary.extend(name.as_bytes());
    }
    dictionary.extend(REST.as_bytes());
    dictionary
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Adler-32, which zlib writes into streams that need a dictionary.
    fn adler(bytes: &[u8]) -> u32 {
        let (a, b) = bytes.iter().fold((1_u32, 0_u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_the_one_of_the_specification() {
        assert_eq!(dictionary().len(), 1423);
        assert_eq!(adler(&dictionary()), 0xe3c6_a7c2);
    }

    fn syn(deflate: &mut Compress, stream: u32, pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut block = u32::try_from(pairs.len()).unwrap().to_be_bytes().to_vec();
        for text in pairs.iter().flat_map(|(name, value)| [name, value]) {
            block.extend(u32::try_from(text.len()).unwrap().to_be_bytes());
            block.extend(text.as_bytes());
        }
        let mut packed = Vec::with_capacity(1024);
        deflate.compress_vec(&block, &mut packed, FlushCompress::Sync).unwrap();
        let mut frame = vec![0x80, 3, 0, 1];
        frame.extend((u32::try_from(packed.len() + 10).unwrap()).to_be_bytes());
        frame.extend(stream.to_be_bytes());
        frame.extend([0; 6]);
        frame.extend(packed);
        frame
    }

    #[test]
    fn streams_open_carry_bytes_and_end_whatever_the_chunks() {
        let mut deflate = Compress::new(Compression::default(), true);
        deflate.set_dictionary(&dictionary()).unwrap();
        let mut bytes = syn(&mut deflate, 1, &[("streamtype", "error"), ("port", "80")]);
        bytes.extend(syn(&mut deflate, 3, &[("Streamtype", "data"), ("port", "80")]));
        bytes.extend([0, 0, 0, 3, 1, 0, 0, 2, b'h', b'i']);
        for size in [1, 7, bytes.len()] {
            let mut session = Session::default();
            let mut events = Vec::new();
            bytes.chunks(size).for_each(|chunk| events.extend(session.receive(chunk).unwrap()));
            assert!(
                matches!(&events[0], Event::Opened { stream: 1, headers } if headers["streamtype"] == "error")
            );
            assert!(
                matches!(&events[1], Event::Opened { stream: 3, headers } if headers["streamtype"] == "data")
            );
            assert_eq!(events[2], Event::Data { stream: 3, bytes: "hi".into(), last: true });
            assert!(!session.take_output().is_empty());
        }
    }
}
