# The bare-metal counter guest: a 64 KiB firmware image (`-bios`), real mode, no device but the first serial port.
#
# It keeps its number in PAGES pages of memory, all of which must agree with the register that holds it, and
# prints it as eight hexadecimal digits a line:
#   START            after every reset
#   00000001         one line per round, each number once
#   BAD 0000002A     memory and register disagree: a page was lost or came from another moment; then it stops
# A round is DELAY turns of an empty loop; no timer, no interrupt.

    .code16
    .ifndef PAGES
    .set PAGES, 16              # at most 143: what ordinary memory there is above FIRST
    .endif
    .set FIRST, 0x1000          # segment of the first page, 64 KiB; one page is 0x100 paragraphs
    .set COM1, 0x3f8

    .text
    .org 0
begin:
    cli
    cld
    xorl %ebx, %ebx             # ebx: the number; it lives nowhere else but in the pages
    movw $FIRST, %ax
    movw %ax, %ss
    movw $0x0ffc, %sp           # the stack: end of the first page
    call store
    movw $start_text, %si
    call print_text
    call print_newline
round:
    movl $DELAY, %ecx
1:  decl %ecx
    jnz 1b
    call check
    incl %ebx
    call store
    call print_number
    call print_newline
    jmp round

# Writes ebx to the first bytes of every page.
store:
    movw $FIRST, %ax
    movw $PAGES, %cx
1:  movw %ax, %ds
    movl %ebx, %ds:0
    addw $0x100, %ax
    loop 1b
    ret

# Compares every page with ebx; does not return if one differs.
check:
    movw $FIRST, %ax
    movw $PAGES, %cx
1:  movw %ax, %ds
    cmpl %ebx, %ds:0
    jne bad
    addw $0x100, %ax
    loop 1b
    ret

bad:
    movw $bad_text, %si
    call print_text
    call print_number
    call print_newline
2:  hlt
    jmp 2b

print_number:
    movl %ebx, %edx
    movw $8, %di
1:  roll $4, %edx
    movb %dl, %al
    andb $0x0f, %al
    addb $'0', %al
    cmpb $'9', %al
    jbe 2f
    addb $('A' - '9' - 1), %al
2:  call print_byte
    decw %di
    jnz 1b
    ret

print_newline:
    movb $'\n', %al
# Waits until the transmitter is empty, then sends al.
print_byte:
    pushw %dx
    movb %al, %ah
    movw $(COM1 + 5), %dx
1:  inb %dx, %al
    testb $0x20, %al
    jz 1b
    movb %ah, %al
    movw $COM1, %dx
    outb %al, %dx
    popw %dx
    ret

# Prints the text at cs:si, which ends with a zero byte.
print_text:
1:  movb %cs:(%si), %al
    incw %si
    testb %al, %al
    jz 2f
    call print_byte
    jmp 1b
2:  ret

start_text: .asciz "START"
bad_text:   .asciz "BAD "

    .org 0xfff0                 # where the processor begins, 16 bytes below 4 GiB
    ljmp $0xf000, $begin
    .org 0x10000
