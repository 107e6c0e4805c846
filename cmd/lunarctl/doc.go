// Command lunarctl is lunar's tool for administrators.
//
//	lunarctl bench iscsi://HOST:PORT/IQN/LUN
//
// puts any iSCSI target under load and measures it; see lunarctl bench --help. This package holds flags and wiring; what it does is in
// the packages that it calls.
package main
