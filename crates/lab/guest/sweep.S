# The bare-metal sweeping guest: a 64 KiB firmware image (`-bios`), 32-bit protected mode without paging, no device but
# the first serial port. It writes one word to each of PAGES pages of memory, again and again, as fast as it can:
#   START            after every reset
#   00000040         rounds so far, in hexadecimal, once in EVERY rounds (a power of two)
# A round is PAGES words and DELAY turns of an empty loop; no timer, no interrupt.

    .set COM1, 0x3f8
    .set BASE, 0xf0000          # where the image lies below 1 MiB
    .set FIRST, 0x100000        # the first page that is written

    .text
    .org 0
    .code16
begin:
    cli
    cld
    lgdtl %cs:descriptors_at
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $8, $(BASE + flat)

    .code32
flat:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %ss
    movl $0x9000, %esp
    xorl %ebx, %ebx             # ebx: rounds
    movl $(BASE + start_text), %esi
    call print_text
    call print_newline
round:
    incl %ebx
    movl $FIRST, %edi
    movl $PAGES, %ecx
1:  movl %ebx, (%edi)
    addl $0x1000, %edi
    decl %ecx
    jnz 1b
    movl $DELAY, %ecx
2:  decl %ecx
    jnz 2b
    testl $(EVERY - 1), %ebx
    jnz round
    call print_number
    call print_newline
    jmp round

print_number:
    movl %ebx, %ebp
    movl $8, %ecx
1:  roll $4, %ebp
    movl %ebp, %eax
    andb $0x0f, %al
    addb $'0', %al
    cmpb $'9', %al
    jbe 2f
    addb $('A' - '9' - 1), %al
2:  call print_byte
    decl %ecx
    jnz 1b
    ret

print_newline:
    movb $'\n', %al
# Waits until the transmitter is empty, then sends al.
print_byte:
    movb %al, %ah
    movw $(COM1 + 5), %dx
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    movb %ah, %al
    movw $COM1, %dx
    outb %al, %dx
    ret

# Prints the text at esi, which ends with a zero byte.
print_text:
1:  movb (%esi), %al
    incl %esi
    testb %al, %al
    jz 2f
    call print_byte
    jmp 1b
2:  ret

start_text: .asciz "START"

    .balign 8
descriptors:                    # none, all memory as code, all memory as data
    .quad 0
    .quad 0x00cf9a000000ffff
    .quad 0x00cf92000000ffff
descriptors_at:
    .word descriptors_at - descriptors - 1
    .long BASE + descriptors

    .org 0xfff0                 # where the processor begins, 16 bytes below 4 GiB
    .code16
    ljmp $0xf000, $begin
    .org 0x10000
