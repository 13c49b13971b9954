//! Devices that are right and not like others: none of them may fail.

use qiao_core::{DType, Epilogue, MemoryInfo, Op, OpKind};
use qiao_reference::round::min_normal;
use qiao_reference::value::Output;

use crate::device::Sabotage::{Kernel, Nothing, Pack};
use crate::device::{Unusual, in_f32};

pub(crate) const DEVICES: &[Unusual] = &[
    Unusual {
        name: "flushes subnormals, and says so",
        info: |info| info.caps.flush_subnormals = true,
        refuses: |_| false,
        manner: Kernel(|s| {
            let mut out = s.truth()?;
            for (i, output) in out.iter_mut().enumerate() {
                let least = min_normal(s.outs[i].dtype).max(min_normal(DType::F32));
                if let Output::Values(data) = output
                    && s.outs[i].dtype.is_activation()
                    && !matches!(s.kind(), OpKind::Fill | OpKind::Cast | OpKind::GatherRows | OpKind::TopK)
                {
                    data.iter_mut().filter(|x| x.abs() < least).for_each(|x| *x = 0.0);
                }
            }
            Ok(out)
        }),
    },
    Unusual {
        name: "decomposes what it can, one operator a plan",
        info: |info| info.caps.multi_op = false,
        refuses: |node| match node.op() {
            Op::SiluMul(_) | Op::AddRmsNorm(_) | Op::Split(_) => true,
            Op::Matmul(a) => a.epilogue != Epilogue::None,
            Op::MatmulQuant(a) => a.epilogue != Epilogue::None,
            _ => false,
        },
        manner: Nothing,
    },
    Unusual {
        name: "knows f32 alone",
        info: |info| info.dtypes.retain(|d| !d.dtype.is_float() || d.dtype == DType::F32),
        refuses: |node| node.operands().any(|(_, desc)| desc.dtype.is_float() && desc.dtype != DType::F32),
        manner: Nothing,
    },
    Unusual { name: "wants constants of products packed", info: |_| (), refuses: |_| false, manner: Pack(|_| ()) },
    Unusual {
        name: "aligns to 4096 and pads by 333",
        info: |info| {
            info.tensor_align = 4096;
            info.tensor_tail_pad = 333;
            info.memories = vec![MemoryInfo { base_align: 4096, ..info.memories[0].clone() }];
        },
        refuses: |_| false,
        manner: Nothing,
    },
    Unusual {
        name: "takes contiguous operands and 32-bit indices alone",
        info: |info| {
            info.caps.strided = false;
            info.caps.index_i64 = false;
        },
        refuses: |node| node.operands().any(|(i, d)| !d.is_contiguous() || d.dtype == DType::I64 && i > 0),
        manner: Nothing,
    },
    Unusual {
        name: "adds products in f32, in any order, and says so",
        info: |info| info.caps.deterministic = false,
        refuses: |_| false,
        manner: Kernel(|s| {
            let plain = matches!(s.op, Op::Matmul(a) if a.epilogue == Epilogue::None && a.trans_b);
            if !plain || s.shape(0).len() != 2 || s.shape(1).len() != 2 || s.desc(0).shape.last_dim() == 0 {
                return s.truth();
            }
            // The terms are rotated, another way each time.
            let k = s.desc(0).shape.last_dim();
            let turn = s.execution * 7 % k;
            for i in 0..2 {
                let mut data = s.value(i).data;
                data.chunks_exact_mut(k).for_each(|row| row.rotate_left(turn));
                s.set(i, &data);
            }
            in_f32(s)
        }),
    },
];
