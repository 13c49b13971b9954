//! A model on several devices: each has some of the layers, and the residual stream goes from one to the next through the host.

use std::ops::Range;
use std::sync::Arc;

use qiao_core::Device;

use crate::error::{EngineError, Result};
use crate::model::DecoderSpec;
use crate::weights::Weights;

/// Which devices a model is put onto, the first layers on the first, and how many layers each has.
#[derive(Clone)]
pub struct Placement {
    /// At least one, and no more than the model has layers.
    pub devices: Vec<Arc<dyn Device>>,
    /// Layers of each device, at least one; `None` = by the memory that each has free.
    pub split: Option<Vec<usize>>,
}

impl From<Arc<dyn Device>> for Placement {
    fn from(device: Arc<dyn Device>) -> Placement {
        Placement { devices: vec![device], split: None }
    }
}

impl Placement {
    /// The layers of each device.
    ///
    /// # Errors
    /// No device, or more than the model has layers; a split that is not one number from 1 on for each device, or whose sum is not the
    /// model's layers.
    pub(crate) fn layers(&self, weights: &Weights, spec: &DecoderSpec) -> Result<Vec<Range<usize>>> {
        let (count, layers) = (self.devices.len(), spec.layers);
        if count == 0 || count > layers {
            let found = format!("{count} devices for {layers} layers");
            return Err(EngineError::Parameter { name: "devices", expected: "one, and no more than layers", found });
        }
        let counts = match &self.split {
            Some(split) => {
                let sum = split.iter().try_fold(0usize, |sum, &n| sum.checked_add(n));
                if split.len() != count || split.contains(&0) || sum != Some(layers) {
                    let split: Vec<_> = split.iter().map(usize::to_string).collect();
                    let found = format!("{} for {count} devices and {layers} layers", split.join(","));
                    let expected = "one number of layers, from 1 on, for each device, and all layers together";
                    return Err(EngineError::Parameter { name: "split", expected, found });
                }
                split.clone()
            }
            None => {
                let shares: Vec<u64> = self.devices.iter().map(|device| free_bytes(&**device)).collect();
                let [first, last] = outer_bytes(weights, spec);
                shared(&layer_bytes(weights, spec), first, last, &shares)
            }
        };
        let ends = counts.iter().scan(0, |end, count| {
            *end += count;
            Some(*end)
        });
        Ok(counts.iter().zip(ends).map(|(count, end)| end - count..end).collect())
    }
}

/// What a device has free, or in all where it does not say; 0 where it says neither.
fn free_bytes(device: &dyn Device) -> u64 {
    let memory = device.info().memories.first();
    memory.map_or(0, |memory| if memory.free_bytes > 0 { memory.free_bytes } else { memory.total_bytes })
}

/// Stored bytes of each layer.
fn layer_bytes(weights: &Weights, spec: &DecoderSpec) -> Vec<u64> {
    let mut bytes = vec![0; spec.layers];
    for name in weights.names() {
        let layer = name.strip_prefix(spec.names.layers).and_then(|rest| rest.split('.').next()?.parse::<usize>().ok());
        if let Some(sum) = layer.and_then(|layer| bytes.get_mut(layer)) {
            *sum += weights.byte_len(name);
        }
    }
    bytes
}

/// Stored bytes of the embedding, and of the head.
fn outer_bytes(weights: &Weights, spec: &DecoderSpec) -> [u64; 2] {
    [format!("{}.weight", spec.names.embed), spec.head_weight()].map(|name| weights.byte_len(&name))
}

/// How many layers each device has: bytes in proportion to what each has room for, where all say so, else as many for each; and at least
/// one layer for each. `first` and `last` are the bytes before the first layer and behind the last.
fn shared(layers: &[u64], first: u64, last: u64, room: &[u64]) -> Vec<usize> {
    let known = !room.contains(&0);
    let room: Vec<f64> = room.iter().map(|&bytes| if known { bytes as f64 } else { 1.0 }).collect();
    let total = (layers.iter().sum::<u64>() + first + last) as f64;
    let all: f64 = room.iter().sum();
    let mut counts = Vec::with_capacity(room.len());
    let (mut next, mut taken, mut due) = (0, first as f64, 0.0);
    for (i, own) in room.iter().enumerate() {
        due += total * own / all;
        let behind = room.len() - 1 - i;
        let begin = next;
        // A layer goes to the device in whose share its middle lies.
        while next < layers.len() - behind && (next == begin || taken + layers[next] as f64 / 2.0 <= due || behind == 0)
        {
            taken += layers[next] as f64;
            next += 1;
        }
        counts.push(next - begin);
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_go_where_there_is_room_and_every_device_has_one() {
        let equal = [10; 8];
        assert_eq!(shared(&equal, 0, 0, &[1, 1]), [4, 4]);
        assert_eq!(shared(&equal, 0, 0, &[3, 1]), [6, 2]);
        assert_eq!(shared(&equal, 0, 0, &[1000, 1, 1]), [6, 1, 1]);
        assert_eq!(shared(&equal, 0, 0, &[1, 1000]), [1, 7]);
        assert_eq!(shared(&equal, 0, 0, &[0, 1000]), [4, 4], "one that does not say what it has");
        assert_eq!(shared(&equal, 20, 20, &[1, 1, 1]), [2, 4, 2], "embedding and head count");
        assert_eq!(shared(&[40, 10, 10, 10, 10], 0, 0, &[1, 1]), [1, 4], "by bytes and not by number");
        assert_eq!(shared(&[0; 3], 0, 0, &[1, 1, 1]).iter().sum::<usize>(), 3);
        for devices in 1..=8 {
            let counts = shared(&equal, 500, 0, &vec![7; devices]);
            assert!(counts.len() == devices && counts.iter().all(|&n| n > 0) && counts.iter().sum::<usize>() == 8);
        }
    }
}
