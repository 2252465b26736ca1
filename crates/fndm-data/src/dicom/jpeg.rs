//! JPEG's lossless process 14: prediction and Huffman codes, annex H of ITU-T T.81.

/// Rest of the bytes of an image.
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Input<'_> {
    fn u8(&mut self) -> Result<u8, String> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        byte.ok_or_else(|| "the image is cut short".into())
    }

    fn u16(&mut self) -> Result<u16, String> {
        Ok(u16::from_be_bytes([self.u8()?, self.u8()?]))
    }

    /// The next marker. Before it may stand any number of bytes FF.
    fn marker(&mut self) -> Result<u8, String> {
        if self.u8()? != 0xff {
            return Err(format!("expected a marker at byte {}", self.at - 1));
        }
        loop {
            match self.u8()? {
                0xff => {}
                code => return Ok(code),
            }
        }
    }

    /// What a marker's segment holds.
    fn segment(&mut self) -> Result<Self, String> {
        let length = usize::from(self.u16()?);
        let content = length.checked_sub(2).ok_or("a segment of no length")?;
        let bytes = self.bytes.get(self.at..self.at + content);
        let bytes = bytes.ok_or("a segment is cut short")?;
        self.at += content;
        Ok(Self { bytes, at: 0 })
    }
}

/// The frame's header.
struct Frame {
    precision: u32,
    component: u8,
}

/// Codes of 1 to 16 bits in order.
#[derive(Clone)]
struct Table {
    /// For each length: the first code, and which symbol it has.
    first: [(u32, usize); 16],
    counts: [u8; 16],
    symbols: Vec<u8>,
}

impl Table {
    fn read(input: &mut Input<'_>) -> Result<Self, String> {
        let mut counts = [0; 16];
        for count in &mut counts {
            *count = input.u8()?;
        }
        let mut first = [(0, 0); 16];
        let (mut code, mut total) = (0u32, 0);
        for ((length, count), first) in (1..).zip(counts).zip(&mut first) {
            code <<= 1;
            *first = (code, total);
            code += u32::from(count);
            total += usize::from(count);
            if code > 1 << length {
                return Err("a Huffman table has more codes than there can be".into());
            }
        }
        let symbols = (0..total).map(|_| input.u8());
        let symbols = symbols.collect::<Result<_, _>>()?;
        Ok(Self {
            first,
            counts,
            symbols,
        })
    }

    fn symbol(&self, bits: &mut Bits<'_>) -> Result<u8, String> {
        let mut code = 0;
        for ((first, index), count) in self.first.iter().zip(self.counts) {
            code = code << 1 | bits.take(1)?;
            if code < first + u32::from(count) {
                let symbol = code.checked_sub(*first).map(|n| index + n as usize);
                let symbol = symbol.and_then(|n| self.symbols.get(n));
                return symbol.copied().ok_or_else(|| "no such Huffman code".into());
            }
        }
        Err("no such Huffman code".into())
    }
}

/// Bits of the coded data, the first of a byte first. A byte FF has a zero behind it.
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
    held: u32,
    count: u32,
}

impl Bits<'_> {
    /// At most 16 bits.
    fn take(&mut self, count: u32) -> Result<u32, String> {
        while self.count < count {
            let byte = self.bytes.get(self.at).copied();
            let marker = byte == Some(0xff) && self.bytes.get(self.at + 1) != Some(&0);
            let byte = byte.filter(|_| !marker).ok_or("the pixels are cut short")?;
            self.at += if byte == 0xff { 2 } else { 1 };
            self.held = self.held << 8 | u32::from(byte);
            self.count += 8;
        }
        self.count -= count;
        Ok(self.held >> self.count & ((1 << count) - 1))
    }

    /// The difference of a pixel and what was predicted.
    fn difference(&mut self, table: &Table) -> Result<i32, String> {
        match u32::from(table.symbol(self)?) {
            0 => Ok(0),
            size @ 1..16 => {
                let bits = self.take(size)? as i32;
                // The lower half of the range stands for the numbers below zero.
                let negative = bits < 1 << (size - 1);
                Ok(if negative {
                    bits + 1 - (1 << size)
                } else {
                    bits
                })
            }
            16 => Ok(1 << 15),
            other => Err(format!("a difference of {other} bits")),
        }
    }

    /// Goes on behind a restart marker.
    fn restart(&mut self) -> Result<(), String> {
        self.count = 0;
        match self.bytes.get(self.at..self.at + 2) {
            Some([0xff, 0xd0..=0xd7]) => self.at += 2,
            _ => return Err("expected a restart marker".into()),
        }
        Ok(())
    }
}

/// The bits of a frame's pixels, each of at most `allocated`.
pub(super) fn decode(
    packed: &[u8],
    (rows, columns): (usize, usize),
    allocated: u32,
) -> Result<Vec<u32>, String> {
    let mut input = Input {
        bytes: packed,
        at: 0,
    };
    if input.marker()? != 0xd8 {
        return Err("expected the start of an image".into());
    }
    let mut frame = None;
    let mut tables: [Option<Table>; 4] = Default::default();
    let mut interval = 0;
    loop {
        match input.marker()? {
            0xc3 => frame = Some(header(&mut input.segment()?, rows, columns, allocated)?),
            0xc4 => {
                let mut segment = input.segment()?;
                while segment.at < segment.bytes.len() {
                    let place = segment.u8()?;
                    let table = Table::read(&mut segment)?;
                    let place = tables.get_mut(usize::from(place));
                    *place.ok_or("a Huffman table of no lossless image")? = Some(table);
                }
            }
            0xdd => interval = usize::from(input.segment()?.u16()?),
            0xda => {
                let frame = frame.ok_or("the pixels come before the frame's header")?;
                return scan(&mut input, &frame, &tables, interval, (rows, columns));
            }
            code @ (0xc0..=0xc2 | 0xc5..=0xc7 | 0xc9..=0xcf) => {
                return Err(format!(
                    "expected process 14, got the frame marker {code:02x}"
                ));
            }
            0xd9 => return Err("the image ends before its pixels".into()),
            // Comments and what programs add.
            0xe0..=0xef | 0xfe | 0xdb => {
                input.segment()?;
            }
            code => return Err(format!("unexpected marker {code:02x}")),
        }
    }
}

fn header(
    input: &mut Input<'_>,
    rows: usize,
    columns: usize,
    allocated: u32,
) -> Result<Frame, String> {
    let precision = input.u8()?.into();
    let (height, width) = (input.u16()?.into(), input.u16()?.into());
    let components = input.u8()?;
    let component = input.u8()?;
    if (height, width, components) != (rows, columns, 1) {
        return Err(format!(
            "expected {rows} rows of {columns} pixels of 1 component, got {height} of {width} of {components}"
        ));
    }
    if !(2..=16).contains(&precision) || precision > allocated {
        return Err(format!(
            "expected 2 to {} bits, got {precision}",
            allocated.min(16)
        ));
    }
    Ok(Frame {
        precision,
        component,
    })
}

fn scan(
    input: &mut Input<'_>,
    frame: &Frame,
    tables: &[Option<Table>; 4],
    interval: usize,
    (rows, columns): (usize, usize),
) -> Result<Vec<u32>, String> {
    let mut segment = input.segment()?;
    let (components, component, table) = (segment.u8()?, segment.u8()?, segment.u8()?);
    if (components, component) != (1, frame.component) {
        return Err("the scan is not of the frame's one component".into());
    }
    let table = tables.get(usize::from(table >> 4)).and_then(Option::as_ref);
    let table = table.ok_or("the scan's Huffman table is not there")?;
    let predictor = segment.u8()?;
    let _ = segment.u8()?;
    let shift = u32::from(segment.u8()? & 15);
    if !(1..=7).contains(&predictor) || shift >= frame.precision {
        return Err(format!("predictor {predictor} with {shift} bits left out"));
    }
    if !interval.is_multiple_of(columns) {
        return Err(format!(
            "a restart after {interval} pixels, which is within a row of {columns}"
        ));
    }
    let mut bits = Bits {
        bytes: input.bytes,
        at: input.at,
        held: 0,
        count: 0,
    };
    // A pixel takes a bit at least.
    if input.bytes.len().saturating_mul(8) < rows * columns {
        return Err("the pixels are cut short".into());
    }
    let middle = 1i32 << (frame.precision - shift - 1);
    let mut pixels = vec![0u32; rows * columns];
    let mut above: &[u32] = &[];
    // A row after a restart is predicted as the first one is.
    let restarted = |row: usize| interval > 0 && row.is_multiple_of(interval / columns);
    for (row, line) in pixels.chunks_exact_mut(columns).enumerate() {
        let first = row == 0 || restarted(row);
        if first && row > 0 {
            bits.restart()?;
        }
        for column in 0..columns {
            let left = column.checked_sub(1).map(|n| line[n] as i32);
            let guess = match (left, first) {
                (None, true) => middle,
                (Some(left), true) => left,
                (None, false) => above[0] as i32,
                (Some(left), false) => {
                    let (up, corner) = (above[column] as i32, above[column - 1] as i32);
                    match predictor {
                        1 => left,
                        2 => up,
                        3 => corner,
                        4 => left + up - corner,
                        5 => left + ((up - corner) >> 1),
                        6 => up + ((left - corner) >> 1),
                        _ => (left + up) >> 1,
                    }
                }
            };
            let difference = bits.difference(table)?;
            line[column] = (guess + difference) as u32 & 0xffff;
        }
        above = line;
    }
    for pixel in &mut pixels {
        *pixel <<= shift;
    }
    Ok(pixels)
}
