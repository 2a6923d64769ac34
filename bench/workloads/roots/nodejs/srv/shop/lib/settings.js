'use strict';
const path = require('path');

module.exports = Object.freeze({
    address: process.env.SHOP_ADDRESS || '127.0.0.1',
    port: Number(process.env.SHOP_PORT || 8080),
    data: process.env.SHOP_DATA || path.join(__dirname, '..', 'data', 'catalogue.json'),
});
