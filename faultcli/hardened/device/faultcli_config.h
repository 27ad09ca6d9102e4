/* What the reader is built for. An export replaces this file by one that leaves out what its model does not need. */
#ifndef FAULTCLI_CONFIG_H
#define FAULTCLI_CONFIG_H

#define FAULTCLI_WORD_BITS 64 /* the widest word: 32 or 64 */
#define FAULTCLI_DOUBLE 1     /* values that are computed or read in double precision */
#define FAULTCLI_BCH 30       /* the most flips that `inplace` corrects in a block; 0 leaves it out */
#define FAULTCLI_SECDED 1     /* `secded` */
#define FAULTCLI_POSTERIOR 1  /* `posterior` */

#endif
