package initiator

import "encoding/binary"

// TestUnitReady returns the CDB of TEST UNIT READY.
func TestUnitReady() []byte { return make([]byte, 6) }

// Inquiry returns the CDB of a standard INQUIRY for n bytes.
func Inquiry(n uint16) []byte { return []byte{0x12, 0, 0, byte(n >> 8), byte(n), 0} }

// InquiryVPD returns the CDB of an INQUIRY for n bytes of a vital product data page.
func InquiryVPD(page byte, n uint16) []byte {
	return []byte{0x12, 1, page, byte(n >> 8), byte(n), 0}
}

// ReadCapacity16 returns the CDB of READ CAPACITY(16) for n bytes.
func ReadCapacity16(n uint32) []byte {
	c := make([]byte, 16)
	c[0], c[1] = 0x9e, 0x10
	binary.BigEndian.PutUint32(c[10:], n)
	return c
}

// ReportLUNs returns the CDB of REPORT LUNS for n bytes.
func ReportLUNs(n uint32) []byte {
	c := make([]byte, 12)
	c[0] = 0xa0
	binary.BigEndian.PutUint32(c[6:], n)
	return c
}

// SynchronizeCache10 returns the CDB of a SYNCHRONIZE CACHE(10) of the whole volume.
func SynchronizeCache10() []byte { return append([]byte{0x35}, make([]byte, 9)...) }

// PutRead writes a READ of blocks from lba on into cdb: READ(10) where it can say so, otherwise READ(16).
func PutRead(cdb *[16]byte, lba uint64, blocks uint32) { putReadWrite(cdb, 0x28, 0x88, lba, blocks) }

// PutWrite writes a WRITE of blocks from lba on into cdb: WRITE(10) where it can say so, otherwise WRITE(16).
func PutWrite(cdb *[16]byte, lba uint64, blocks uint32) { putReadWrite(cdb, 0x2a, 0x8a, lba, blocks) }

func putReadWrite(cdb *[16]byte, op10, op16 byte, lba uint64, blocks uint32) {
	*cdb = [16]byte{}
	if lba+uint64(blocks) <= 1<<32 && blocks <= 0xffff {
		cdb[0] = op10
		binary.BigEndian.PutUint32(cdb[2:], uint32(lba))
		binary.BigEndian.PutUint16(cdb[7:], uint16(blocks))
		return
	}
	cdb[0] = op16
	binary.BigEndian.PutUint64(cdb[2:], lba)
	binary.BigEndian.PutUint32(cdb[10:], blocks)
}
