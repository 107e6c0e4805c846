// Package gauge has what programs that measure lunard have in common: building its commands, a daemon of one's own until it listens, a load by
// lunarctl bench, and a table of figures beside their goals.
//
// It knows lunard and lunarctl by their command lines. It promises nothing to programs outside this module.
package gauge
