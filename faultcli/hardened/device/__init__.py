"""The device's side of hardened weights: a reader in C that corrects and decodes what lies in the memory.

description   what the reader has to know of a tensor
tables        the codes' tables, nibble by nibble
golden        what the reader has to give, on clean and on damaged memory
c_source      names, constants and tables as C
export        all of it in one folder
readme        the page that lies in it

`faultcli_reader.h`, `faultcli_reader.c` and `faultcli_config.h` lie beside these modules and are copied as they are.
"""
