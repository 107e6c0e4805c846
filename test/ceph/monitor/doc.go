// Command monitor carries out commands of Ceph's monitors and placement groups for package ceph: one JSON object a line on standard
// input, one answer a line on standard output, until the input ends. It is built with the tag rbd, since it needs librados.
//
//	monitor CONF
//	{"command":{"prefix":"osd stat","format":"json"}}
//	{"pg":"1.0","command":{"prefix":"query","pgid":"1.0","format":"json"}}
//
// It promises nothing to programs outside this module.
package main
