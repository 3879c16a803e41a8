# A guest without an operating system: a 64 KiB flat image for QEMU's -bios.
#
# The symbol DELAY, given to the assembler, is the number of turns of a loop between two ticks.
#
# The first processor counts 1, 2, 3, ...: tick n stores n into page n mod 64 of its own area and prints n in
# decimal with a newline on the first serial port. Every other processor counts in an area of its own, silently.
# After a reset it prints "boot" and begins again at 1.
#
#   area of processor c:  0x200000 + c * 0x100000
#     +0x00000            the last tick (32 bits)
#     +0x01000 + p*0x1000 page p (0..63): the last tick n with n mod 64 = p
#
# The image is linked at 0xf0000, where PC firmware is visible below 1 MiB; processors other than the first are
# started there too (start-up vector 0xf0), so nothing has to be copied.

        .set    PORT, 0x3f8
        .set    AREAS, 0x200000
        .set    PAGES, 64
        .set    NEXT_CPU, 0x1ff000          # number of processors that have come up
        .set    APIC_ICR, 0xfee00300

        .code16
        .text
        .globl  _start
_start:                                     # start-up vector of the other processors: f000:0000
        cli
        movl    $1, %ebp                    # not the first processor
        jmp     protect

reset:                                      # the first processor
        cli
        xorl    %ebp, %ebp
protect:
        lgdtl   %cs:gdtr - _start
        movl    %cr0, %eax
        orb     $1, %al
        movl    %eax, %cr0
        ljmpl   $8, $flat

        .code32
flat:   movw    $16, %ax
        movw    %ax, %ds
        movw    %ax, %es
        movw    %ax, %ss
        testl   %ebp, %ebp
        jnz     other

        movl    $0x1f0000, %esp
        movl    $1, NEXT_CPU
        movl    $AREAS, %edi
        movl    $0, (%edi)
        movl    $boot, %esi
        call    print
        movl    $0x000c4500, APIC_ICR       # INIT to all but self
        movl    $20000, %ecx
1:      loop    1b
        movl    $0x000c46f0, APIC_ICR       # start-up at page 0xf0 to all but self
tick:   call    count
        call    print_number
        movl    $DELAY, %ecx
2:      loop    2b
        jmp     tick

other:  movl    $1, %eax
        lock xaddl %eax, NEXT_CPU
        shll    $20, %eax
        leal    AREAS(%eax), %edi
        movl    $0, (%edi)
3:      call    count
        movl    $DELAY / 10, %ecx
4:      loop    4b
        jmp     3b

# Counts one tick in the area at edi; returns it in eax.
count:  movl    (%edi), %eax
        incl    %eax
        movl    %eax, %ecx
        andl    $PAGES - 1, %ecx
        shll    $12, %ecx
        movl    %eax, 0x1000(%edi, %ecx)
        movl    %eax, (%edi)
        ret

# Prints eax in decimal and a newline.
print_number:
        movl    $0x1f1000, %esi             # digits are written backwards below this address
        movb    $0, (%esi)
        decl    %esi
        movb    $'\n', (%esi)
        movl    $10, %ecx
5:      xorl    %edx, %edx
        divl    %ecx
        addb    $'0', %dl
        decl    %esi
        movb    %dl, (%esi)
        testl   %eax, %eax
        jnz     5b
# Prints the text at esi up to its zero byte.
print:  movw    $PORT + 5, %dx
6:      inb     %dx, %al
        testb   $0x20, %al                  # transmitter holding register empty
        jz      6b
        lodsb
        testb   %al, %al
        jz      7f
        movw    $PORT, %dx
        outb    %al, %dx
        jmp     print
7:      ret

boot:   .asciz  "boot\n"

        .balign 8
gdt:    .quad   0
        .quad   0x00cf9b000000ffff          # flat code, already marked accessed: this is ROM
        .quad   0x00cf93000000ffff          # flat data
gdtr:   .word   . - gdt - 1
        .long   gdt

        .org    0xfff0
        .code16
        ljmpw   $0xf000, $reset - _start
        .org    0x10000
