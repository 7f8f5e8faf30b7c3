//! SPDY/3.1 framing without I/O: bytes to frames, frames to bytes. After "SPDY Protocol - Draft 3.1".
use bytes::{Buf, BufMut, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};
use std::collections::HashMap;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const FIN: u8 = 1;
/// RST_STREAM's word for a peer that sends more than is taken.
const FLOW_CONTROL_ERROR: u32 = 7;
/// Of a frame that is not data; a longer one is somebody's mistake.
const LONGEST_CONTROL: usize = 128 * 1024;
const LONGEST_HEADERS: usize = 64 * 1024;
/// What one of our data frames carries at most.
const CHUNK: usize = 16 * 1024;

/// What the peer sent. Header names are in lower case.
#[derive(Debug, PartialEq)]
pub enum Frame {
    Open {
        stream: u32,
        headers: HashMap<String, String>,
        last: bool,
    },
    /// A frame's bytes, as far as they have come: a whole one may have 16 MiB.
    Data {
        stream: u32,
        bytes: Bytes,
        last: bool,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
}

#[derive(Debug)]
pub struct ProtocolError;

/// Splits the peer's bytes into frames.
pub struct Reader {
    input: BytesMut,
    inflate: Decompress,
    /// Of a frame of data that has not come whole: its stream, the bytes yet to come, and whether it is the last.
    coming: Option<(u32, usize, bool)>,
}

impl Default for Reader {
    fn default() -> Self {
        Self { input: BytesMut::new(), inflate: Decompress::new(true), coming: None }
    }
}

impl Reader {
    pub fn receive(&mut self, bytes: &[u8]) -> Result<Vec<Frame>, ProtocolError> {
        self.input.extend_from_slice(bytes);
        let mut frames = Vec::new();
        loop {
            if let Some((stream, length, last)) = self.coming {
                if self.input.is_empty() {
                    break;
                }
                let bytes = self.input.split_to(length.min(self.input.len())).freeze();
                let left = length - bytes.len();
                self.coming = (left > 0).then_some((stream, left, last));
                frames.push(Frame::Data { stream, bytes, last: last && left == 0 });
                continue;
            }
            let Some(head) = self.input.first_chunk::<8>() else { break };
            let [a, b, c, d, flags, lengths @ ..] = *head;
            let (first, last) = (u32::from_be_bytes([a, b, c, d]), flags & FIN != 0);
            let length = lengths.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
            if first >> 31 == 0 {
                self.input.advance(8);
                match length {
                    0 => frames.push(Frame::Data { stream: first, bytes: Bytes::new(), last }),
                    _ => self.coming = Some((first, length, last)),
                }
                continue;
            }
            if length > LONGEST_CONTROL {
                return Err(ProtocolError);
            }
            if self.input.len() < 8 + length {
                break;
            }
            let mut frame = self.input.split_to(8 + length).freeze();
            frame.advance(8);
            frames.extend(self.control(u16::try_from(first & 0xffff).unwrap_or(0), last, frame)?);
        }
        Ok(frames)
    }

    fn control(&mut self, kind: u16, last: bool, mut frame: Bytes) -> Result<Option<Frame>, ProtocolError> {
        let need = |length: usize| if frame.len() < length { Err(ProtocolError) } else { Ok(()) };
        Ok(match kind {
            SYN_STREAM => {
                need(10)?;
                let stream = frame.get_u32() & 0x7fff_ffff;
                frame.advance(6);
                Some(Frame::Open { stream, headers: self.headers(&frame)?, last })
            }
            HEADERS | SYN_REPLY => {
                need(4)?;
                frame.advance(4);
                self.headers(&frame)?; // the compression goes on over all of them
                None
            }
            RST_STREAM => {
                need(8)?;
                Some(Frame::Reset { stream: frame.get_u32() & 0x7fff_ffff })
            }
            PING => {
                need(4)?;
                Some(Frame::Ping { id: frame.get_u32() })
            }
            GOAWAY => Some(Frame::GoAway),
            // SETTINGS and WINDOW_UPDATE: what we send is bounded by the connection below.
            _ => None,
        })
    }

    fn headers(&mut self, compressed: &[u8]) -> Result<HashMap<String, String>, ProtocolError> {
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
}

/// Writes our frames.
pub struct Writer {
    deflate: Compress,
}

impl Default for Writer {
    fn default() -> Self {
        Self { deflate: Compress::new(Compression::default(), true) }
    }
}

impl Writer {
    /// Accepts a stream: a reply without headers.
    pub fn accept(&mut self, stream: u32, out: &mut BytesMut) -> Result<(), ProtocolError> {
        if self.deflate.total_in() == 0 {
            self.deflate.set_dictionary(&dictionary()).map_err(|_| ProtocolError)?;
        }
        let mut payload = Vec::with_capacity(64);
        payload.extend(stream.to_be_bytes());
        self.deflate
            .compress_vec(&0_u32.to_be_bytes(), &mut payload, FlushCompress::Sync)
            .map_err(|_| ProtocolError)?;
        control_frame(SYN_REPLY, &payload, out);
        Ok(())
    }
}

/// Gives a stream up: its bytes come faster than they are taken.
pub fn reset(stream: u32, out: &mut BytesMut) {
    control_frame(RST_STREAM, &[stream.to_be_bytes(), FLOW_CONTROL_ERROR.to_be_bytes()].concat(), out);
}

pub fn pong(id: u32, out: &mut BytesMut) {
    control_frame(PING, &id.to_be_bytes(), out);
}

pub fn data(stream: u32, bytes: &[u8], last: bool, out: &mut BytesMut) {
    let mut chunks = bytes.chunks(CHUNK).peekable();
    if chunks.peek().is_none() {
        out.put_u32(stream);
        frame_tail(if last { FIN } else { 0 }, &[], out);
    }
    while let Some(chunk) = chunks.next() {
        out.put_u32(stream);
        frame_tail(if last && chunks.peek().is_none() { FIN } else { 0 }, chunk, out);
    }
}

fn control_frame(kind: u16, payload: &[u8], out: &mut BytesMut) {
    out.put_u16(0x8003);
    out.put_u16(kind);
    frame_tail(0, payload, out);
}

fn frame_tail(flags: u8, payload: &[u8], out: &mut BytesMut) {
    let length = u32::try_from(payload.len()).unwrap_or(0);
    out.put_u32(u32::from(flags) << 24 | length);
    out.put_slice(payload);
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
            let mut reader = Reader::default();
            let mut frames = Vec::new();
            bytes.chunks(size).for_each(|chunk| frames.extend(reader.receive(chunk).unwrap()));
            assert!(
                matches!(&frames[0], Frame::Open { stream: 1, headers, .. } if headers["streamtype"] == "error")
            );
            assert!(
                matches!(&frames[1], Frame::Open { stream: 3, headers, .. } if headers["streamtype"] == "data")
            );
            let (mut read, mut ended) = (Vec::new(), false);
            for frame in &frames[2..] {
                let Frame::Data { stream: 3, bytes, last } = frame else { panic!("{frame:?}") };
                read.extend_from_slice(bytes);
                ended |= last;
            }
            assert_eq!((&read[..], ended), (&b"hi"[..], true));
        }
    }

    #[test]
    fn a_large_frame_is_handed_on_as_it_comes() {
        let mut reader = Reader::default();
        let head = [0, 0, 0, 3, 1, 0xff, 0xff, 0xff];
        assert_eq!(reader.receive(&head).unwrap(), []);
        for _ in 0..3 {
            let part = Frame::Data { stream: 3, bytes: vec![1; 1000].into(), last: false };
            assert_eq!(reader.receive(&[1; 1000]).unwrap(), [part]);
        }
        let rest = vec![1; 0xff_ffff - 3000];
        assert!(matches!(&reader.receive(&rest).unwrap()[..], [Frame::Data { last: true, .. }]));
        assert_eq!(
            reader.receive(&[0, 0, 0, 3, 1, 0, 0, 0]).unwrap(),
            [Frame::Data { stream: 3, bytes: Bytes::new(), last: true }]
        );
    }

    #[test]
    fn what_one_side_writes_the_other_reads() {
        let mut out = BytesMut::new();
        Writer::default().accept(1, &mut out).unwrap();
        pong(7, &mut out);
        reset(5, &mut out);
        data(1, &vec![9; CHUNK + 1], true, &mut out);
        let frames = Reader::default().receive(&out).unwrap();
        let lengths: Vec<(usize, bool)> = frames
            .iter()
            .filter_map(|f| {
                if let Frame::Data { bytes, last, .. } = f { Some((bytes.len(), *last)) } else { None }
            })
            .collect();
        assert_eq!(frames[..2], [Frame::Ping { id: 7 }, Frame::Reset { stream: 5 }]);
        assert_eq!(lengths, [(CHUNK, false), (1, true)]);
    }
}
