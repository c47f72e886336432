# A guest for QEMU that writes memory at a rate, as memhog does: qemu-system-x86_64 -kernel.
# It fills all memory between `first` and `end`, tells so by a byte on port 0xe9, and then
# writes a word into `batch` pages, by chance among the `hot` ones from `first` on, whenever
# the timer ticks. In between it sleeps. The six words are patched by bench/qemu_peer.py, which
# holds what this comes to:
#     as --32 bench/qemu_guest.s -o guest.o && objcopy -O binary guest.o guest.bin
.code32
.org 0
header:
 .long 0x1BADB002
 .long 0x00010000
 .long -(0x1BADB002 + 0x00010000)
 .long 0x100000
 .long 0x100000
 .long 0x101000
 .long 0
 .long 0x100000 + (entry - header)
first:   .long 0
end:     .long 0
hot:     .long 0
batch:   .long 0
divisor: .long 0
written: .long 0
gdt:
 .quad 0
 .quad 0x00cf9a000000ffff
 .quad 0x00cf92000000ffff
gdtp: .word 23
 .long 0x100000 + (gdt - header)
idtp: .word 0x107
 .long 0x8000
entry:
 movl $0x9000, %esp
 lgdt 0x100000 + (gdtp - header)
 ljmp $8, $(0x100000 + (flat - header))
flat:
 movw $16, %ax
 movw %ax, %ds
 movw %ax, %es
 movw %ax, %ss
 cld
 movl 0x100000 + (first - header), %edi
fill:
 movl %edi, %eax
 orl $0x5a5, %eax
 movl $1024, %ecx
 rep stosl
 cmpl 0x100000 + (end - header), %edi
 jb fill
 # one gate: vector 0x20
 movl $0x8000, %edi
 xorl %eax, %eax
 movl $66, %ecx
 rep stosl
 movl $(0x100000 + (isr - header)), %eax
 movl $0x00080000, %ebx
 movw %ax, %bx
 movl %ebx, 0x8100
 movw $0x8e00, %ax
 movl %eax, 0x8104
 lidt 0x100000 + (idtp - header)
 # the PIC: vectors from 0x20, the timer alone
 movb $0x11, %al
 outb %al, $0x20
 movb $0x20, %al
 outb %al, $0x21
 movb $4, %al
 outb %al, $0x21
 movb $1, %al
 outb %al, $0x21
 movb $0xfe, %al
 outb %al, $0x21
 # the timer: mode 2
 movb $0x34, %al
 outb %al, $0x43
 movl 0x100000 + (divisor - header), %eax
 outb %al, $0x40
 movb %ah, %al
 outb %al, $0x40
 movb $'R', %al
 outb %al, $0xe9
 movl $1, %ebx
wait:
 sti
 hlt
 movl 0x100000 + (batch - header), %ecx
 jecxz wait
write:
 imull $1664525, %ebx, %ebx
 addl $1013904223, %ebx
 movl %ebx, %eax
 mull 0x100000 + (hot - header)
 shll $12, %edx
 addl 0x100000 + (first - header), %edx
 movl %ebx, (%edx)
 loop write
 movl 0x100000 + (batch - header), %eax
 addl %eax, 0x100000 + (written - header)
 jmp wait
isr:
 pushl %eax
 movb $0x20, %al
 outb %al, $0x20
 popl %eax
 iretl
