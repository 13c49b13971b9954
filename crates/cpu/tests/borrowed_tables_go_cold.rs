//! Memory that the device only borrows is told when a gather has read what it needs of it.

use std::ops::Range;
use std::sync::{Arc, Mutex};

use qiao_core::{Binding, DType, Device, Graph, HostMemory, NoAttrs, Op, TensorDesc};
use qiao_cpu::{CpuDevice, CpuOptions};

const WIDTH: usize = 4;

/// A table of f32 behind a few bytes of something else, that notes what went cold, from and to.
struct Table {
    data: Vec<u64>,
    cold: Mutex<Vec<(usize, usize)>>,
}

impl HostMemory for Table {
    fn bytes(&self) -> &[u8] {
        // SAFETY: u64 has no padding, and a byte has no alignment.
        unsafe { std::slice::from_raw_parts(self.data.as_ptr().cast(), self.data.len() * 8) }
    }

    fn cold(&self, range: Range<usize>) {
        self.cold.lock().unwrap().push((range.start, range.end));
    }
}

/// Gathers `rows` rows of a borrowed table of 64; what went cold.
fn gather(rows: usize) -> Vec<(usize, usize)> {
    let device = CpuDevice::with(&CpuOptions::default()).unwrap();
    let bytes = 64 * WIDTH * 4;
    let table = Arc::new(Table { data: vec![0; 2 + bytes / 8], cold: Mutex::default() });
    let mut graph = Graph::new();
    let t = graph.bind("table", TensorDesc::new(DType::F32, &[64, WIDTH]).unwrap().as_constant());
    let ids = graph.bind("ids", TensorDesc::new(DType::I32, &[rows]).unwrap());
    let y = graph.bind("y", TensorDesc::new(DType::F32, &[rows, WIDTH]).unwrap());
    graph.add_into(Op::GatherRows(NoAttrs {}), &[Some(t), Some(ids)], &[y]).unwrap();
    let plan = device.plan(&graph).unwrap();
    let alloc = |bytes: usize| Binding::whole(device.alloc(0, bytes).unwrap());
    let borrowed = Binding::whole(device.import(table.clone(), 16, bytes).unwrap());
    let bindings = [borrowed, alloc(rows * 4), alloc(rows * WIDTH * 4)];
    let mut stream = device.stream().unwrap();
    plan.execute(&mut *stream, &bindings, &alloc(plan.info().workspace_bytes.max(1))).unwrap();
    table.cold.lock().unwrap().clone()
}

#[test]
fn a_gather_of_many_rows_lets_the_table_go() {
    assert_eq!(gather(32), [(16, 16 + 64 * WIDTH * 4)]);
}

#[test]
fn a_gather_of_one_row_does_not_call_the_system() {
    assert!(gather(1).is_empty());
}
