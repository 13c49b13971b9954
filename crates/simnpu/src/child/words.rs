//! What devices say, as values of the wire: errors, answers, descriptions.

use std::time::Duration;

use qiao_core::error::Unsupported;
use qiao_core::{
    Caps, DType, DeviceInfo, Dims, DtypeInfo, Error, KvInfo, KvLayout, Limit, MemoryInfo, MemoryKind, OpKind, PlanInfo,
    Property, Reason, Result, Rule, TensorDesc,
};

use super::wire::{Reader, Writer, garbled};

/// A kind of value that crosses.
pub(crate) trait Word: Sized {
    /// Writes it.
    fn write(&self, w: Writer) -> Writer;
    /// Reads it.
    fn read(r: &mut Reader<'_>) -> Result<Self>;
}

impl<T: Word> Word for Option<T> {
    fn write(&self, w: Writer) -> Writer {
        match self {
            Some(v) => v.write(w.flag(true)),
            None => w.flag(false),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        if r.flag()? { T::read(r).map(Some) } else { Ok(None) }
    }
}

impl<T: Word> Word for Vec<T> {
    fn write(&self, w: Writer) -> Writer {
        w.list(self, |w, v| v.write(w))
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        r.list(T::read)
    }
}

impl Word for usize {
    fn write(&self, w: Writer) -> Writer {
        w.size(*self)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        r.size()
    }
}

impl Word for Duration {
    fn write(&self, w: Writer) -> Writer {
        w.time(*self)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        r.time()
    }
}

impl Word for DType {
    fn write(&self, w: Writer) -> Writer {
        w.text(self.name())
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        r.text()?.parse().map_err(|_| garbled("a dtype"))
    }
}

impl Word for Limit {
    fn write(&self, w: Writer) -> Writer {
        match self {
            Limit::None => w.u8(0),
            Limit::Int(v) => w.u8(1).u64(v.cast_unsigned()),
            Limit::Dtype(d) => d.write(w.u8(2)),
            Limit::Text(t) => w.u8(3).text(t),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(match r.u8()? {
            0 => Limit::None,
            1 => Limit::Int(r.u64()?.cast_signed()),
            2 => Limit::Dtype(DType::read(r)?),
            3 => Limit::Text(r.text()?),
            _ => return Err(garbled("a limit")),
        })
    }
}

/// The attribute of a name.
fn attribute(name: &str) -> Result<&'static str> {
    let mut names = OpKind::ALL.iter().flat_map(|k| k.attr_names().iter().copied());
    names.find(|n| *n == name).ok_or_else(|| garbled("an attribute's name"))
}

impl Word for Property {
    fn write(&self, w: Writer) -> Writer {
        match self {
            Property::Attribute(name) => w.u8(2).text(name),
            Property::Dim(axis) => w.u8(5).size(*axis),
            Property::Operator => w.u8(0),
            Property::Revision => w.u8(1),
            Property::Dtype => w.u8(3),
            Property::Rank => w.u8(4),
            Property::Strides => w.u8(6),
            Property::Alignment => w.u8(7),
            Property::Quantisation => w.u8(8),
            Property::Layout => w.u8(9),
            Property::Memory => w.u8(10),
            Property::Presence => w.u8(11),
            // A property that this file does not know is told as the widest one.
            _ => w.u8(0),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(match r.u8()? {
            0 => Property::Operator,
            1 => Property::Revision,
            2 => Property::Attribute(attribute(&r.text()?)?),
            3 => Property::Dtype,
            4 => Property::Rank,
            5 => Property::Dim(r.size()?),
            6 => Property::Strides,
            7 => Property::Alignment,
            8 => Property::Quantisation,
            9 => Property::Layout,
            10 => Property::Memory,
            11 => Property::Presence,
            _ => return Err(garbled("a property")),
        })
    }
}

const RULES: [Rule; 6] = [Rule::None, Rule::MultipleOf, Rule::AtMost, Rule::AtLeast, Rule::Equal, Rule::OneOf];

impl Word for Reason {
    fn write(&self, w: Writer) -> Writer {
        let rule = RULES.iter().position(|r| *r == self.rule).unwrap_or(0);
        let w = self.property.write(self.operand.write(w)).size(rule);
        self.limit.write(self.value.write(w))
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let (operand, property) = (Option::read(r)?, Property::read(r)?);
        let rule = *RULES.get(r.size()?).ok_or_else(|| garbled("a rule"))?;
        Ok(Reason { operand, property, rule, value: Limit::read(r)?, limit: Limit::read(r)? })
    }
}

impl Word for Unsupported {
    fn write(&self, w: Writer) -> Writer {
        self.reason.write(w.size(self.node).text(self.op))
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let (node, name) = (r.size()?, r.text()?);
        let kind: OpKind = name.parse().map_err(|_| garbled("an operator's name"))?;
        Ok(Unsupported { node, op: kind.name(), reason: Reason::read(r)? })
    }
}

impl Word for Error {
    fn write(&self, w: Writer) -> Writer {
        match self {
            Error::Invalid { what, found, mend } => w.u8(1).text(what).text(found).text(mend),
            Error::Unsupported { device, list } => list.write(w.u8(2).text(device)),
            Error::OutOfMemory { device, asked, free } => w.u8(3).text(device).u64(*asked).u64(*free),
            Error::NotPresent { what, why } => w.u8(4).text(what).text(why),
            Error::Timeout { what, millis } => w.u8(5).text(what).u64(*millis),
            Error::Poisoned { first } => first.write(w.u8(6)),
            Error::DeviceLost { device, why } => w.u8(7).text(device).text(why),
            Error::Internal { what, why } => w.u8(8).text(what).text(why),
            other => w.u8(8).text("the simulated device").text(&other.to_string()),
        }
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(match r.u8()? {
            1 => Error::Invalid { what: r.text()?, found: r.text()?, mend: r.text()? },
            2 => Error::Unsupported { device: r.text()?, list: Vec::read(r)? },
            3 => Error::OutOfMemory { device: r.text()?, asked: r.u64()?, free: r.u64()? },
            4 => Error::NotPresent { what: r.text()?, why: r.text()? },
            5 => Error::Timeout { what: r.text()?, millis: r.u64()? },
            6 => Error::Poisoned { first: Box::new(Error::read(r)?) },
            7 => Error::DeviceLost { device: r.text()?, why: r.text()? },
            8 => Error::Internal { what: r.text()?, why: r.text()? },
            _ => return Err(garbled("an error")),
        })
    }
}

impl Word for TensorDesc {
    fn write(&self, w: Writer) -> Writer {
        let w = self.strides.to_vec().write(self.shape.to_vec().write(self.dtype.write(w)));
        w.u64(self.layout).flag(self.constant)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let (dtype, shape, strides) = (DType::read(r)?, Vec::read(r)?, Vec::read(r)?);
        let (shape, strides) = (Dims::new(&shape)?, Dims::new(&strides)?);
        Ok(TensorDesc { dtype, shape, strides, layout: r.u64()?, constant: r.flag()? })
    }
}

impl Word for PlanInfo {
    fn write(&self, w: Writer) -> Writer {
        w.size(self.workspace_bytes).size(self.workspace_align).size(self.resident_bytes)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(PlanInfo { workspace_bytes: r.size()?, workspace_align: r.size()?, resident_bytes: r.size()? })
    }
}

impl Word for MemoryInfo {
    fn write(&self, w: Writer) -> Writer {
        let MemoryKind { device_local, host_visible, pinned } = self.kind;
        let w = w.flag(device_local).flag(host_visible).flag(pinned);
        let w = w.u64(self.total_bytes).u64(self.free_bytes).u64(self.max_alloc);
        w.size(self.base_align).u64(self.peak_bytes_per_s.to_bits())
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(MemoryInfo {
            kind: MemoryKind { device_local: r.flag()?, host_visible: r.flag()?, pinned: r.flag()? },
            total_bytes: r.u64()?,
            free_bytes: r.u64()?,
            max_alloc: r.u64()?,
            base_align: r.size()?,
            peak_bytes_per_s: f64::from_bits(r.u64()?),
        })
    }
}

impl Word for DtypeInfo {
    fn write(&self, w: Writer) -> Writer {
        self.dtype.write(w).flag(self.compute).u64(self.peak_ops_per_s.to_bits())
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(DtypeInfo { dtype: DType::read(r)?, compute: r.flag()?, peak_ops_per_s: f64::from_bits(r.u64()?) })
    }
}

impl Word for KvInfo {
    fn write(&self, w: Writer) -> Writer {
        w.u8(self.layout as u8).size(self.block_size)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        let layout = u32::from(r.u8()?);
        let layout = KvLayout::ALL.iter().copied().find(|l| *l as u32 == layout);
        Ok(KvInfo { layout: layout.ok_or_else(|| garbled("a cache layout"))?, block_size: r.size()? })
    }
}

impl Word for Caps {
    fn write(&self, w: Writer) -> Writer {
        let w = w.flag(self.multi_op).flag(self.import_host).flag(self.strided);
        w.flag(self.index_i64).flag(self.deterministic).flag(self.batch_invariant).flag(self.flush_subnormals)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(Caps {
            multi_op: r.flag()?,
            import_host: r.flag()?,
            strided: r.flag()?,
            index_i64: r.flag()?,
            deterministic: r.flag()?,
            batch_invariant: r.flag()?,
            flush_subnormals: r.flag()?,
        })
    }
}

impl Word for DeviceInfo {
    fn write(&self, w: Writer) -> Writer {
        let w = w.text(&self.name).text(&self.vendor).text(&self.arch).text(&self.driver);
        let w = self.kv.write(self.dtypes.write(self.memories.write(w)));
        self.caps.write(w).size(self.tensor_align).size(self.tensor_tail_pad).text(&self.peak_source)
    }

    fn read(r: &mut Reader<'_>) -> Result<Self> {
        Ok(DeviceInfo {
            name: r.text()?,
            vendor: r.text()?,
            arch: r.text()?,
            driver: r.text()?,
            memories: Vec::read(r)?,
            dtypes: Vec::read(r)?,
            kv: Vec::read(r)?,
            caps: Caps::read(r)?,
            tensor_align: r.size()?,
            tensor_tail_pad: r.size()?,
            peak_source: r.text()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;
    use crate::presets;

    fn comes_back<T: Word + Debug>(value: &T) {
        let w = value.write(Writer::default());
        let back = T::read(&mut Reader::new(&w.0)).unwrap();
        assert_eq!(format!("{back:?}"), format!("{value:?}"));
        for cut in 0..w.0.len() {
            assert!(T::read(&mut Reader::new(&w.0[..cut])).is_err(), "{cut} bytes of {value:?}");
        }
    }

    #[test]
    fn every_error_comes_back() {
        let reasons = [
            Reason::operator(),
            Reason::operand(1, Property::Dim(2), Rule::MultipleOf, 100usize, 64usize),
            Reason::dtype(0, DType::F64, &[DType::F32]),
            Reason::attribute("rotary_dim", Rule::Equal, 32usize, 64usize),
            Reason::strides(3, "none"),
        ];
        let list = reasons.map(|reason| Unsupported { node: 3, op: "matmul", reason }).into();
        let first = Box::new(Error::internal("a", "b"));
        for error in [
            Error::invalid("what", "found", "mend"),
            Error::Unsupported { device: "d".into(), list },
            Error::OutOfMemory { device: "d".into(), asked: 1, free: u64::MAX },
            Error::not_present("x", "y"),
            Error::Timeout { what: "w".into(), millis: 7 },
            Error::Poisoned { first },
            Error::DeviceLost { device: "d".into(), why: "w".into() },
        ] {
            comes_back(&error);
        }
    }

    #[test]
    fn every_preset_describes_itself_across_the_wire() {
        for preset in presets::all() {
            comes_back(&preset.limits.info("simulated".into(), [5, 6], true));
        }
        comes_back(&TensorDesc::strided(DType::F16, &[3, 4], &[8, 1]).unwrap().as_constant());
        comes_back(&PlanInfo { workspace_bytes: 1, workspace_align: 2, resident_bytes: 3 });
    }
}
