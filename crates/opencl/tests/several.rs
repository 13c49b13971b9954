//! Several devices at once: each keeps its own, and bytes go from one to the other.

mod rig;

use std::sync::Arc;
use std::time::Duration;

use qiao_core::*;
use qiao_opencl::OpenClBackend;

const BYTES: usize = 3 << 20;

/// y = x + x on a device, of f32.
fn doubled(device: &dyn Device, x: &[u8]) -> Result<Vec<u8>> {
    let mut g = Graph::new();
    let desc = TensorDesc::new(DType::F32, &[x.len() / 4])?;
    let (a, y) = (g.bind("x", desc.clone()), g.bind("y", desc));
    g.add_into(Op::Add(NoAttrs {}), &[Some(a), Some(a)], &[y])?;
    let plan = device.plan(&g)?;
    let mut run = rig::Run::new(device, &*plan, &[x.to_vec(), vec![0; x.len()]])?;
    run.execute(&*plan)?;
    run.read(1)
}

fn numbers() -> Vec<u8> {
    (0..BYTES / 4).flat_map(|i| (i as f32).to_le_bytes()).collect()
}

fn open_all() -> Vec<Arc<dyn Device>> {
    (0..rig::devices()).map(|i| OpenClBackend.open(i).unwrap()).collect()
}

#[test]
fn they_work_at_once_and_hand_on_what_they_made() {
    let devices = open_all();
    std::thread::scope(|scope| {
        for device in &devices {
            scope.spawn(|| {
                let mut bytes = numbers();
                for round in 1..=3u32 {
                    bytes = doubled(&**device, &bytes).unwrap();
                    let last = f32::from_le_bytes(bytes[BYTES - 4..].try_into().unwrap());
                    assert_eq!(last, (BYTES / 4 - 1) as f32 * f32::from(1u16 << round));
                }
            });
        }
    });
    // Once around: each device doubles what the one before made.
    let made = devices.iter().try_fold(numbers(), |bytes, device| doubled(&**device, &bytes)).unwrap();
    let times = (1u32 << devices.len()) as f32;
    let first = |i: usize| f32::from_le_bytes(made.get(4 * i..4 * i + 4).unwrap().try_into().unwrap());
    assert!((0..BYTES / 4).all(|i| first(i) == i as f32 * times));
}

#[test]
fn what_belongs_to_one_is_refused_by_the_other() {
    let devices = open_all();
    let [first, second, ..] = &devices[..] else { return };
    let theirs = Binding::whole(first.alloc(0, 64).unwrap());
    let (mut stream, event) = (second.stream().unwrap(), first.event().unwrap());
    for refused in [stream.upload(&theirs, &[1; 64]), stream.fill(&theirs, 1), stream.record(&*event)] {
        assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
    }
    let own = Binding::whole(second.alloc(0, 64).unwrap());
    assert!(matches!(stream.copy(&own, &theirs), Err(Error::Invalid { .. })));
    stream.fill(&own, 7).unwrap();
    let mut bytes = [0; 64];
    stream.download(&mut bytes, &own).unwrap();
    stream.sync(Duration::from_secs(60)).unwrap();
    assert_eq!(bytes, [7; 64]);
}
