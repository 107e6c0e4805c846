package initiator

import (
	"encoding/binary"

	"github.com/lunar-iscsi/lunar/scsi/cdb"
)

// TestUnitReady returns the CDB of TEST UNIT READY.
func TestUnitReady() []byte { return make([]byte, 6) }

// Inquiry returns the CDB of a standard INQUIRY for n bytes.
func Inquiry(n uint16) []byte { return []byte{cdb.Inquiry, 0, 0, byte(n >> 8), byte(n), 0} }

// InquiryVPD returns the CDB of an INQUIRY for n bytes of a vital product data page.
func InquiryVPD(page byte, n uint16) []byte {
	return []byte{cdb.Inquiry, 1, page, byte(n >> 8), byte(n), 0}
}

// ReadCapacity16 returns the CDB of READ CAPACITY(16) for n bytes.
func ReadCapacity16(n uint32) []byte {
	c := make([]byte, 16)
	c[0], c[1] = cdb.ServiceActionIn16, cdb.ReadCapacity16
	binary.BigEndian.PutUint32(c[10:], n)
	return c
}

// ReportLUNs returns the CDB of REPORT LUNS for n bytes.
func ReportLUNs(n uint32) []byte {
	c := make([]byte, 12)
	c[0] = cdb.ReportLUNs
	binary.BigEndian.PutUint32(c[6:], n)
	return c
}

// SynchronizeCache10 returns the CDB of a SYNCHRONIZE CACHE(10) of the whole volume.
func SynchronizeCache10() []byte { return append([]byte{cdb.SynchronizeCache10}, make([]byte, 9)...) }

// PutRead writes a READ of blocks from lba on into b: READ(10) where it can say so, otherwise READ(16).
func PutRead(b *[16]byte, lba uint64, blocks uint32) {
	*b = transfer(cdb.Read10, cdb.Read16, lba, blocks)
}

// PutWrite writes a WRITE of blocks from lba on into b: WRITE(10) where it can say so, otherwise WRITE(16).
func PutWrite(b *[16]byte, lba uint64, blocks uint32) {
	*b = transfer(cdb.Write10, cdb.Write16, lba, blocks)
}

func transfer(op10, op16 byte, lba uint64, blocks uint32) [16]byte {
	if lba+uint64(blocks) <= 1<<32 && blocks <= 0xffff {
		return cdb.Transfer(op10, lba, blocks, 0)
	}
	return cdb.Transfer(op16, lba, blocks, 0)
}
