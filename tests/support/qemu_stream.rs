//! QEMU's migration streams built from the documented layout, byte by byte: a second opinion on
//! what `dwcp::qemu` reads.

#![allow(dead_code, reason = "each test binary uses its part")]

/// Ends the words of a RAM section.
const END_OF_SECTION: u64 = 0x10;
/// The section that the builder gives to RAM.
const RAM_ID: u32 = 2;
/// Room of a multifd packet.
const CAPACITY: usize = 128;

/// The blocks of every stream here, and their lengths in pages.
pub const BLOCKS: [(&str, u64); 3] = [("pc.ram", 1 << 18), ("pc.bios", 64), ("vga.vram", 4096)];

/// A stream under construction.
#[derive(Default)]
pub struct Builder(pub Vec<u8>);

impl Builder {
    /// The file header and the configuration section.
    pub fn open(machine: &str) -> Self {
        Self::default().put(b"QEVM").be32(3).put(&[7]).be32(machine.len() as u32).text(machine)
    }

    pub fn put(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub fn text(self, text: &str) -> Self {
        self.put(text.as_bytes())
    }

    pub fn be16(self, value: u16) -> Self {
        self.put(&value.to_be_bytes())
    }

    pub fn be32(self, value: u32) -> Self {
        self.put(&value.to_be_bytes())
    }

    pub fn be64(self, value: u64) -> Self {
        self.put(&value.to_be_bytes())
    }

    /// Text behind its length in one byte.
    pub fn name(self, name: &str) -> Self {
        self.put(&[name.len() as u8]).text(name)
    }

    /// A subsection of the configuration.
    pub fn subsection(self, name: &str, fields: &[u8]) -> Self {
        self.put(&[5]).name(name).be32(1).put(fields)
    }

    pub fn command(self, number: u16, data: &[u8]) -> Self {
        self.put(&[8]).be16(number).be16(data.len() as u16).put(data)
    }

    /// Begins a START section.
    pub fn start(self, id: u32, name: &str, version: u32) -> Self {
        self.put(&[1]).be32(id).name(name).be32(0).be32(version)
    }

    /// Begins RAM's START section; the block list follows.
    pub fn ram_start(self) -> Self {
        let pages: u64 = BLOCKS.iter().map(|(_, pages)| pages).sum();
        self.start(RAM_ID, "ram", 4).be64((pages * 4096) | 4)
    }

    /// The whole START section, with `extra` behind each block.
    pub fn setup(self, extra: &[u8]) -> Self {
        let list = |stream: Self, (name, pages): &(&str, u64)| {
            stream.name(name).be64(pages * 4096).put(extra)
        };
        BLOCKS.iter().fold(self.ram_start(), list).end_section()
    }

    /// Begins a PART section of RAM.
    pub fn part(self) -> Self {
        self.put(&[2]).be32(RAM_ID)
    }

    /// Begins the END section of RAM.
    pub fn last_part(self) -> Self {
        self.put(&[3]).be32(RAM_ID)
    }

    /// The last word of a section, and the footer.
    pub fn end_section(self) -> Self {
        self.be64(END_OF_SECTION).put(&[0x7e]).be32(RAM_ID)
    }

    /// A word; without a block it continues the one before.
    pub fn word(self, flags: u64, page: u64, block: Option<&str>) -> Self {
        match block {
            Some(name) => self.be64((page * 4096) | flags).name(name),
            None => self.be64((page * 4096) | flags | 0x20),
        }
    }

    pub fn page(self, page: u64, block: Option<&str>) -> Self {
        self.word(8, page, block).put(&payload(page))
    }

    pub fn zero(self, page: u64, block: Option<&str>) -> Self {
        self.word(2, page, block).put(&[0])
    }

    /// A page as a delta of QEMU's own.
    pub fn xbzrle(self, page: u64, delta: &[u8]) -> Self {
        self.word(0x40, page, None).put(&[1]).be16(delta.len() as u16).put(delta)
    }

    /// A page that QEMU compressed.
    pub fn compressed(self, page: u64, bytes: &[u8]) -> Self {
        self.word(0x100, page, None).be32(bytes.len() as u32).put(bytes)
    }

    /// Device state, the end mark and the description.
    pub fn devices(self) -> Self {
        let text = "{\"page_size\": 4096, \"devices\": []}";
        let cpu = self.put(&[4]).be32(5).name("cpu").be32(0).be32(12).put(&[0xaa; 700]);
        cpu.put(&[0x7e]).be32(5).put(&[0, 6]).be32(text.len() as u32).text(text)
    }

    /// The greeting of a multifd channel.
    pub fn greeting(channel: u8) -> Self {
        Self::default().be32(0x1122_3344).be32(1).put(&[7; 16]).put(&[channel]).put(&[0; 39])
    }

    /// A multifd packet with everything that its header states.
    pub fn packet(self, packet: &Packet) -> Self {
        let head = self.be32(0x1122_3344).be32(1).be32(packet.flags).be32(packet.room);
        let head = head.be32(packet.normal.len() as u32).be32(packet.length).be64(1);
        let head = head.be32(packet.zero.len() as u32).put(&[0; 28]);
        let mut name = [0; 256];
        name[..packet.block.len()].copy_from_slice(packet.block.as_bytes());
        let used = packet.normal.iter().chain(&packet.zero).copied();
        let offsets = used.chain(std::iter::repeat(0)).take(CAPACITY);
        let head = offsets.fold(head.put(&name), |stream, page| stream.be64(page * 4096));
        packet.normal.iter().fold(head, |stream, page| stream.put(&payload(*page)))
    }
}

/// What a multifd packet states.
pub struct Packet {
    pub flags: u32,
    /// Pages that it has room for.
    pub room: u32,
    /// Length of the payload, or what is left of an earlier one.
    pub length: u32,
    pub block: &'static str,
    pub normal: Vec<u64>,
    pub zero: Vec<u64>,
}

impl Packet {
    /// A packet of pages.
    pub fn of(block: &'static str, normal: Vec<u64>, zero: Vec<u64>) -> Self {
        let length = normal.len() as u32 * 4096;
        Self { flags: 0, room: CAPACITY as u32, length, block, normal, zero }
    }
}

/// Page content that differs between pages and looks like other parts of a stream here and there.
pub fn payload(page: u64) -> Vec<u8> {
    let words =
        (0..512).map(|index| if index % 5 == 0 { END_OF_SECTION } else { page * 512 + index });
    words.flat_map(u64::to_be_bytes).collect()
}

/// A pre-copy stream of QEMU 7.2: two passes, deltas and compressed pages among them.
pub fn precopy_7_2() -> Vec<u8> {
    let stream = Builder::open("pc-i440fx-7.2").setup(&[]);
    let stream = stream.part().page(1, Some("pc.ram")).page(2, None).zero(3, None);
    let stream = stream.page(0, Some("pc.bios")).page(9, None).page(10, None).end_section();
    let stream = stream.part().page(1, Some("pc.ram")).xbzrle(2, b"delta").end_section();
    let stream = stream.last_part().page(262_143, None).compressed(7, &[3; 900]).end_section();
    stream.devices().0
}

/// A main channel of QEMU 9 beside multifd channels: barriers, validated settings, no pages.
pub fn main_of_multifd_9() -> Vec<u8> {
    let stream = Builder::open("pc-q35-9.0").subsection("configuration/uuid", &[3; 16]).ram_start();
    let list = |stream: Builder, (name, pages): &(&str, u64)| stream.name(name).be64(pages * 4096);
    let stream = BLOCKS.iter().fold(stream, list).be64(0x200).end_section();
    let stream = stream.part().be64(0x200).end_section().last_part().be64(0x200).end_section();
    stream.devices().0
}

/// A stream that goes over to post-copy, of a guest with huge pages in one block.
pub fn postcopy_7_2() -> Vec<u8> {
    let advice = [((1_u64 << 21) | 4096).to_be_bytes(), 4096_u64.to_be_bytes()].concat();
    let stream = Builder::open("pc-i440fx-7.2").command(1, &[]).command(3, &advice).ram_start();
    let stream = stream.name("pc.ram").be64(BLOCKS[0].1 * 4096).be64(1 << 21);
    let stream = stream.name("pc.bios").be64(BLOCKS[1].1 * 4096);
    let stream = stream.name("vga.vram").be64(BLOCKS[2].1 * 4096).end_section();
    let stream = stream.part().page(5, Some("pc.ram")).end_section();
    let package = Builder::default().command(4, &[]).put(&[4, 8, 0x7e]).command(5, &[]).0;
    let stream = stream.command(7, &(package.len() as u32).to_be_bytes()).put(&package);
    let stream = stream.part().page(6, None).zero(7, None).end_section();
    stream.last_part().page(8, Some("vga.vram")).end_section().put(&[0]).0
}

/// A multifd channel as QEMU 7.2 writes it, with lengths left over from earlier packets.
pub fn multifd_7_2() -> Vec<u8> {
    let stale = |flags| Packet { flags, length: 5 << 12, ..Packet::of("pc.ram", vec![], vec![]) };
    let stream = Builder::greeting(1).packet(&stale(1));
    let stream = stream.packet(&Packet::of("pc.ram", vec![4, 5, 6, 7, 900], vec![]));
    let stream = stream.packet(&stale(0)).packet(&Packet::of("pc.bios", vec![63], vec![]));
    stream.packet(&Packet { flags: 1, ..Packet::of("pc.ram", vec![5], vec![]) }).0
}

/// A multifd channel as QEMU 9.2 writes it: zero pages, and barriers that state no room.
pub fn multifd_9_2() -> Vec<u8> {
    let barrier = Packet { flags: 1, room: 0, ..Packet::of("", vec![], vec![]) };
    let stream = Builder::greeting(0).packet(&barrier);
    let stream = stream.packet(&Packet::of("pc.ram", vec![1, 2], vec![3, 4, 5]));
    stream.packet(&Packet::of("vga.vram", vec![], (0..128).collect())).packet(&barrier).0
}

/// Every stream of a main channel above.
pub fn main_channels() -> [Vec<u8>; 3] {
    [precopy_7_2(), main_of_multifd_9(), postcopy_7_2()]
}

/// Every stream of a multifd channel above.
pub fn multifd_channels() -> [Vec<u8>; 2] {
    [multifd_7_2(), multifd_9_2()]
}
