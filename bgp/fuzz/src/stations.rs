//! What has to hold for any BMP stream and any MRT archive.

use std::collections::BTreeSet;

use bgp_core::bmp::{self, BmpError, BmpFrame, BmpFramer};
use bgp_core::mrt::{self, MrtContent, MrtError, MrtFramer, MrtReader, MrtRecord};
use bgp_core::{ErrorLevel, Nlri, Station, StationAction, decode_update};
use events::NeighborId;

use crate::allocation::measured;
use crate::station_oracles;

/// Bytes that anything may allocate whatever its input: texts of errors, a table's node.
const FREE: usize = 16 * 1024;

/// A BMP stream: the station's view of the RIB stays consistent, whatever comes.
pub fn bmp(more: u8, stream: &[u8]) {
    let step = usize::from(more & 0x7f) + 1;
    let (frames, error) = bmp_frames(stream, usize::MAX);
    assert_eq!(
        (&frames, &error),
        (&bmp_frames(stream, step).0, &bmp_frames(stream, step).1),
        "cut into pieces"
    );
    let taken: usize = frames
        .iter()
        .map(|f| bmp::HEADER_LENGTH + f.body.len())
        .sum();
    assert!(taken <= stream.len());
    let router = "192.0.2.1".parse().expect("an address");
    let mut station = Station::new(router);
    let mut up: BTreeSet<NeighborId> = BTreeSet::new();
    for frame in &frames {
        let (decoded, allocated) = measured(|| bmp::decode(frame).map(drop));
        let length = frame.body.len();
        assert!(
            allocated <= FREE + 64 * length,
            "decoding {length} octets allocated {allocated}"
        );
        station_oracles::bmp(frame);
        let (handled, allocated) = measured(|| station.handle(frame));
        assert!(
            allocated <= 2 * FREE + 256 * length,
            "handling {length} octets allocated {allocated}"
        );
        assert_eq!(
            handled.is_err(),
            decoded.is_err(),
            "a station adds no errors"
        );
        for action in handled.unwrap_or_default() {
            follow(&mut up, &action);
        }
    }
    assert!(station.peers().count() <= frames.len());
    for action in station.lost("the end") {
        assert!(matches!(action, StationAction::Down(..)));
        follow(&mut up, &action);
    }
    assert_eq!(up, BTreeSet::new(), "all that was up is down in the end");
}

/// What is up comes up once, changes only while it is up, and goes down once.
fn follow(up: &mut BTreeSet<NeighborId>, action: &StationAction) {
    match action {
        StationAction::Up(id, _) => assert!(up.insert(*id), "{id} is up twice"),
        StationAction::Down(id, _) => assert!(up.remove(id), "{id} is down twice"),
        StationAction::Update(id, update) => {
            assert!(up.contains(id), "{id} changes while it is down");
            let worst = update.errors.iter().map(|error| error.level).max();
            assert!(worst < Some(ErrorLevel::Reset));
            let announced = update.announced.iter().flat_map(|routes| &routes.nlri);
            announced.chain(&update.withdrawn).for_each(sound);
        }
    }
}

fn sound(nlri: &Nlri) {
    assert_eq!(nlri.prefix, nlri.prefix.trunc(), "host bits");
}

fn bmp_frames(stream: &[u8], step: usize) -> (Vec<BmpFrame>, Option<BmpError>) {
    let mut framer = BmpFramer::default();
    let mut frames = Vec::new();
    for chunk in stream.chunks(step.min(stream.len().max(1))) {
        framer.push(chunk);
        loop {
            match framer.next_frame() {
                Ok(Some(frame)) => frames.push(frame),
                Ok(None) => break,
                Err(error) => return (frames, Some(error)),
            }
        }
    }
    assert!(framer.pending() < bmp::MAX_LENGTH);
    (frames, None)
}

/// An archive: places are right, and every record is read or refused by itself.
pub fn mrt(more: u8, stream: &[u8]) {
    let step = usize::from(more & 0x7f) + 1;
    let (records, error) = mrt_records(stream, usize::MAX);
    let pieces = mrt_records(stream, step);
    assert_eq!(
        (&records, &error),
        (&pieces.0, &pieces.1),
        "cut into pieces"
    );
    let mut next = 0;
    let mut reader = MrtReader::default();
    for record in &records {
        assert_eq!(record.offset, next, "records follow each other");
        let extended = if matches!(record.kind, 17 | 33 | 49) {
            4
        } else {
            0
        };
        let length = mrt::HEADER_LENGTH + extended + record.body.len();
        next += u64::try_from(length).expect("short");
        let (decoded, allocated) = measured(|| reader.decode(record));
        let length = record.body.len();
        assert!(
            allocated <= FREE + 256 * length,
            "decoding {length} octets allocated {allocated}"
        );
        station_oracles::mrt(record, &decoded);
        match decoded {
            Ok(MrtContent::Routes(routes)) => {
                for route in routes {
                    sound(&route.nlri);
                    let worst = route.errors.iter().map(|error| error.level).max();
                    let gone = worst > Some(ErrorLevel::Discard);
                    assert_eq!(route.attributes.is_none(), gone, "{route:?}");
                    if let Some(attributes) = route.attributes {
                        let packed = attributes.pack();
                        let unpacked = bgp_core::Attributes::unpack(&packed);
                        assert_eq!(unpacked, Some(attributes));
                    }
                }
            }
            Ok(MrtContent::Message(message)) => {
                assert!(message.body.len() <= length);
                let _ = decode_update(message.body, &message.context);
            }
            Ok(_) => {}
            Err(error) => assert_eq!(error.offset, record.offset),
        }
    }
    assert!(next <= u64::try_from(stream.len()).expect("short"));
    if let Some(error) = error {
        assert_eq!(error.offset, next);
    }
}

fn mrt_records(stream: &[u8], step: usize) -> (Vec<MrtRecord>, Option<MrtError>) {
    let mut framer = MrtFramer::default();
    let mut records = Vec::new();
    for chunk in stream.chunks(step.min(stream.len().max(1))) {
        framer.push(chunk);
        loop {
            match framer.next_record() {
                Ok(Some(record)) => records.push(record),
                Ok(None) => break,
                Err(error) => return (records, Some(error)),
            }
        }
    }
    let end = framer.finish();
    assert_eq!(end.is_err(), framer.pending() > 0);
    (records, end.err())
}
