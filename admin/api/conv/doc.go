// Package conv carries lunar's words (admin/spec, and what package target tells of itself) to and from the messages of admin/api:
// the server needs it in both directions, and so does lunarctl, which reads and writes configuration files.
//
// From… makes messages and cannot fail: text that is no UTF-8, which messages cannot hold and tgt's faces let in, gets a
// replacement character for what is wrong in it. Secrets are left out, but by FromAccountWithSecret. To… makes words, and says of what does
// not fit which field it is; whether the words make sense together is for admin to say. Nothing shares memory with what it was made of.
//
// It promises nothing to programs outside this module.
package conv
